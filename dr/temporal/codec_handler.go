package temporal

import (
	"fmt"
	"net/http"
	"slices"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// maxCodecRequest bounds what a codec handler reads of a request: a page of
// Temporal's UI asks for many payloads at once, as base64 in JSON.
const maxCodecRequest = 64 << 20

// HandlerOptions are those of CodecHandler.
type HandlerOptions struct {
	// Allow decides who may see what payloads say; required. Its error's text
	// is the answer, with status 403. Temporal's UI can be told to pass its
	// user's access token on (TEMPORAL_CODEC_PASS_ACCESS_TOKEN), which comes as
	// an Authorization header; the namespace is in header X-Namespace.
	Allow func(*http.Request) error
	// Origins are the pages that browsers may ask from, as "https://host:port":
	// the address of Temporal's UI. None: only programs can ask.
	Origins []string
	// Encode lets the UI also encrypt what its users type in. Without it the
	// handler only decrypts.
	Encode bool
}

// CodecHandler lets Temporal's UI and command line show what the codec has
// encrypted: they ask it to decode payloads, by POST to paths that end in
// /decode. It holds the keys, so serve it over TLS only, and where only
// operators get. ErrInvalid without Allow.
func CodecHandler(c *Codec, o HandlerOptions) (http.Handler, error) {
	if c == nil || o.Allow == nil {
		return nil, fmt.Errorf("%w: a codec handler needs a codec, and Allow to say who may ask", dr.ErrInvalid)
	}
	if slices.Contains(o.Origins, "*") {
		return nil, fmt.Errorf("%w: a codec handler for every origin; name the UI's", dr.ErrInvalid)
	}
	inner := converter.NewPayloadCodecHTTPHandler(&halves{Codec: c, encode: o.Encode})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		w.Header().Set("Vary", "Origin")
		if origin != "" && slices.Contains(o.Origins, origin) {
			h := w.Header()
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Allow-Credentials", "true")
			h.Set("Access-Control-Allow-Methods", "POST, OPTIONS")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Namespace")
		} else if origin != "" {
			http.Error(w, "this page may not ask", http.StatusForbidden)
			return
		}
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if err := o.Allow(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, maxCodecRequest)
		inner.ServeHTTP(w, r)
	}), nil
}

// halves is a codec that encrypts only if it may.
type halves struct {
	*Codec
	encode bool
}

func (h *halves) Encode(p []*commonpb.Payload) ([]*commonpb.Payload, error) {
	if !h.encode {
		return nil, fmt.Errorf("%w: this handler only decodes", dr.ErrNotAllowed)
	}
	return h.Codec.Encode(p)
}
