package temporal

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func newKey(id string) Key {
	k := Key{ID: id, Secret: make([]byte, 32)}
	_, _ = rand.Read(k.Secret)
	return k
}

func newCodec(t testing.TB, keys ...Key) *Codec {
	c, err := NewCodec(CodecOptions{Keys: keys})
	require.NoError(t, err)
	return c
}

func payload(text string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text)}
}

func in(workflow string, c *Codec) converter.PayloadCodec {
	return c.WithSerializationContext(converter.WorkflowSerializationContext{Namespace: "ns", WorkflowID: workflow})
}

func one(t *testing.T, c converter.PayloadCodec, p *commonpb.Payload) *commonpb.Payload {
	t.Helper()
	all, err := c.Encode([]*commonpb.Payload{p})
	require.NoError(t, err)
	return all[0]
}

func TestCodecBringsBackWhatItSealed(t *testing.T) {
	c := newCodec(t, newKey("k1"))
	for _, text := range []string{"", "short", strings.Repeat("long and repeated ", 100_000)} {
		p := payload(text)
		sealed := one(t, c, p)
		require.NotContains(t, string(sealed.Data), "repeated")
		require.Less(t, len(sealed.Data), len(text)+200)
		got, err := c.Decode([]*commonpb.Payload{sealed})
		require.NoError(t, err)
		require.True(t, proto.Equal(p, got[0]))
		require.NotEqual(t, sealed.Data, one(t, c, p).Data, "sealed anew each time")
	}
}

func TestCodecKeysAreChanged(t *testing.T) {
	k1, k2 := newKey("k1"), newKey("k2")
	before, between, after := newCodec(t, k1), newCodec(t, k1, k2), newCodec(t, k2, k1)
	old, young := one(t, before, payload("x")), one(t, after, payload("y"))
	require.Equal(t, "k1", string(one(t, between, payload("x")).Metadata[metaKey]))
	require.Equal(t, "k2", string(young.Metadata[metaKey]))
	for _, c := range []*Codec{between, after} {
		_, err := c.Decode([]*commonpb.Payload{old, young})
		require.NoError(t, err)
	}
	_, err := before.Decode([]*commonpb.Payload{young})
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.ErrorContains(t, err, `key "k2"`)
	_, err = newCodec(t, newKey("k1")).Decode([]*commonpb.Payload{old})
	require.ErrorIs(t, err, dr.ErrCorrupt, "another key of the same ID")
}

func TestCodecRefusesBadKeys(t *testing.T) {
	good := newKey("k")
	for _, keys := range [][]Key{nil, {{ID: "k", Secret: make([]byte, 16)}}, {{ID: "", Secret: good.Secret}}, {{ID: "a b", Secret: good.Secret}},
		{good, good}} {
		_, err := NewCodec(CodecOptions{Keys: keys})
		require.ErrorIs(t, err, dr.ErrInvalid)
		require.NotContains(t, err.Error(), string(good.Secret))
	}
	c := newCodec(t, good)
	require.NotContains(t, fmt.Sprintf("%v %+v", c, c.o), string(good.Secret))
}

// Whatever is changed in a sealed payload is seen, and so is one that stands
// in another run.
func TestCodecSeesWhatWasChanged(t *testing.T) {
	k := newKey("k")
	c := newCodec(t, k)
	sealed := one(t, in("run-1", c), payload(strings.Repeat("the plan ", 100)))
	bad := func(why string, change func(*commonpb.Payload)) {
		p := proto.Clone(sealed).(*commonpb.Payload)
		change(p)
		_, err := c.Decode([]*commonpb.Payload{p})
		require.ErrorIs(t, err, dr.ErrCorrupt, why)
	}
	for i := range sealed.Data {
		bad("a bit", func(p *commonpb.Payload) { p.Data[i] ^= 1 })
	}
	for n := range len(sealed.Data) {
		bad("shorter", func(p *commonpb.Payload) { p.Data = p.Data[:n] })
	}
	bad("bound elsewhere", func(p *commonpb.Payload) { p.Metadata[metaBound] = []byte("ns/run-2") })
	bad("not bound", func(p *commonpb.Payload) { delete(p.Metadata, metaBound) })
	bad("said to be plain", func(p *commonpb.Payload) { p.Metadata["encoding"] = []byte("json/plain") })

	_, err := in("run-1", c).Decode([]*commonpb.Payload{sealed})
	require.NoError(t, err)
	_, err = in("run-2", c).Decode([]*commonpb.Payload{sealed})
	require.ErrorIs(t, err, dr.ErrCorrupt)
	_, err = in("run-2", c).Decode([]*commonpb.Payload{one(t, c, payload("bound to none"))})
	require.NoError(t, err)

	plain := payload("by hand")
	_, err = c.Decode([]*commonpb.Payload{plain})
	require.ErrorIs(t, err, dr.ErrCorrupt)
	lenient, err := NewCodec(CodecOptions{Keys: []Key{k}, AcceptPlain: true})
	require.NoError(t, err)
	got, err := lenient.Decode([]*commonpb.Payload{plain})
	require.NoError(t, err)
	require.True(t, proto.Equal(plain, got[0]))
}

func TestCodecBoundsPayloads(t *testing.T) {
	c := newCodec(t, newKey("k"))
	noise := make([]byte, maxSealed)
	_, _ = rand.Read(noise)
	_, err := c.Encode([]*commonpb.Payload{{Data: noise}})
	var large *TooLarge
	require.ErrorAs(t, err, &large)
	require.Greater(t, large.Size, maxSealed)
	require.ErrorContains(t, err, fmt.Sprint(large.Size))
	require.True(t, dr.IsPermanent(err))
	_, err = c.Encode([]*commonpb.Payload{{Data: noise[:maxSealed-200]}})
	require.NoError(t, err)
	require.NotNil(t, one(t, c, payload(strings.Repeat("x", 16<<20))), "what counts is what Temporal is given")
	_, err = c.Encode([]*commonpb.Payload{payload(strings.Repeat("x", maxClear))})
	require.ErrorAs(t, err, &large)

	// Nobody is made to unpack more than what could have been packed.
	bomb := c.seal(make([]byte, 2*maxClear))
	require.Less(t, len(bomb.Data), 64<<10)
	_, err = c.Decode([]*commonpb.Payload{bomb})
	require.ErrorIs(t, err, dr.ErrCorrupt)
}

// Texts of errors are sealed as well.
func TestCodecHidesErrors(t *testing.T) {
	c := newCodec(t, newKey("k"))
	f := temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{DataConverter: c.DataConverter(), EncodeCommonAttributes: true})
	sealed := f.ErrorToFailure(temporal.NewApplicationErrorWithCause("canary in a message", "Kind", errors.New("canary in a cause"), "canary in details"))
	raw, err := protojson.Marshal(sealed)
	require.NoError(t, err)
	require.NotContains(t, string(raw), "canary")
	require.ErrorContains(t, f.FailureToError(sealed), "canary in a message")
}

func TestCodecHandler(t *testing.T) {
	c := newCodec(t, newKey("k"))
	_, err := CodecHandler(c, HandlerOptions{})
	require.ErrorIs(t, err, dr.ErrInvalid)
	allow := func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer operator" {
			return errors.New("operators only")
		}
		return nil
	}
	_, err = CodecHandler(c, HandlerOptions{Allow: allow, Origins: []string{"*"}})
	require.ErrorIs(t, err, dr.ErrInvalid)
	sealed, err := protojson.Marshal(&commonpb.Payloads{Payloads: []*commonpb.Payload{one(t, in("r", c), payload(`"readable"`))}})
	require.NoError(t, err)
	ask := func(o HandlerOptions, path, user, origin string, body []byte) *httptest.ResponseRecorder {
		o.Allow, o.Origins = allow, []string{"https://ui.example"}
		h, err := CodecHandler(c, o)
		require.NoError(t, err)
		r := httptest.NewRequest("POST", path, bytes.NewReader(body))
		if user != "" {
			r.Header.Set("Authorization", "Bearer "+user)
		}
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	w := ask(HandlerOptions{}, "/decode", "operator", "https://ui.example", sealed)
	require.Equal(t, 200, w.Code, w.Body)
	require.Equal(t, "https://ui.example", w.Header().Get("Access-Control-Allow-Origin"))
	var got struct{ Payloads []struct{ Data []byte } }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	require.Equal(t, `"readable"`, string(got.Payloads[0].Data))
	for _, w := range []*httptest.ResponseRecorder{
		ask(HandlerOptions{}, "/decode", "", "", sealed),
		ask(HandlerOptions{}, "/decode", "guest", "https://ui.example", sealed),
		ask(HandlerOptions{}, "/decode", "operator", "https://evil.example", sealed),
	} {
		require.Equal(t, 403, w.Code)
		require.NotContains(t, w.Body.String(), "readable")
	}
	clear, err := protojson.Marshal(&commonpb.Payloads{Payloads: []*commonpb.Payload{payload(`1`)}})
	require.NoError(t, err)
	require.Equal(t, 400, ask(HandlerOptions{}, "/encode", "operator", "", clear).Code)
	require.Equal(t, 200, ask(HandlerOptions{Encode: true}, "/encode", "operator", "", clear).Code)
	require.Equal(t, 400, ask(HandlerOptions{}, "/decode", "operator", "", []byte("{")).Code)
}

// Whatever stands in a history, decoding it ends in an error or in a payload
// that can be sealed and opened again.
func FuzzCodecDecode(f *testing.F) {
	k := Key{ID: "k", Secret: make([]byte, 32)}
	c := newCodec(f, k)
	for _, text := range []string{"", "short", strings.Repeat("long ", 200)} {
		all, err := c.Encode([]*commonpb.Payload{payload(text)})
		require.NoError(f, err)
		f.Add(encodingName, all[0].Metadata[metaKey], []byte(""), all[0].Data)
	}
	f.Add("json/plain", []byte("k"), []byte("ns/r"), []byte("{}"))
	f.Fuzz(func(t *testing.T, encoding string, key, bound, data []byte) {
		p := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(encoding), metaKey: key, metaBound: bound}, Data: data}
		got, err := c.Decode([]*commonpb.Payload{p})
		if err != nil {
			return
		}
		again, err := c.Decode([]*commonpb.Payload{one(t, c, got[0])})
		require.NoError(t, err)
		require.True(t, proto.Equal(got[0], again[0]))
	})
}

// What could be inside of a sealed payload is bytes, too, to who has the key of
// another version.
func FuzzCodecInside(f *testing.F) {
	c := newCodec(f, Key{ID: "k", Secret: make([]byte, 32)})
	f.Add(byte(formZstd), []byte("\x28\xb5\x2f\xfd"))
	f.Add(byte(formAsIs), []byte{10, 200})
	f.Fuzz(func(t *testing.T, form byte, clear []byte) {
		gcm := c.keys["k"]
		data := append([]byte{form}, make([]byte, gcm.NonceSize())...)
		data = gcm.Seal(data, data[1:], clear, sealedWith(form, "k", ""))
		got, err := c.Decode([]*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte(encodingName), metaKey: []byte("k")}, Data: data}})
		if err == nil {
			require.LessOrEqual(t, proto.Size(got[0]), 2*maxClear)
		}
	})
}
