package azurite

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"
)

func upload(t testing.TB, c *container.Client, name, content string) {
	t.Helper()
	_, err := c.NewBlockBlobClient(name).Upload(t.Context(), streaming.NopCloser(strings.NewReader(content)), &blockblob.UploadOptions{})
	require.NoError(t, err)
}

func download(t testing.TB, c *container.Client, name string) string {
	t.Helper()
	r, err := c.NewBlobClient(name).DownloadStream(t.Context(), &blob.DownloadStreamOptions{})
	require.NoError(t, err)
	defer r.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(r.Body)
	require.NoError(t, err)
	return b.String()
}

func TestTestsShareOneAndHaveContainersOfTheirOwn(t *testing.T) {
	s := Start(t)
	require.Same(t, s, Start(t))
	a, b := s.Container(t, ""), s.Container(t, "")
	require.NotEqual(t, a.URL(), b.URL())
	require.True(t, strings.HasPrefix(a.URL(), s.URL()+"/"))
	upload(t, a, "x", "hello")
	require.Equal(t, "hello", download(t, a, "x"))
	_, err := b.NewBlobClient("x").GetProperties(t.Context(), nil)
	require.Error(t, err)
}

func TestAContainerIsGoneAfterItsTest(t *testing.T) {
	s := Start(t)
	t.Run("first", func(t *testing.T) { upload(t, s.Container(t, "the-same"), "x", "hello") })
	_, err := s.Container(t, "the-same").NewBlobClient("x").GetProperties(t.Context(), nil)
	require.Error(t, err)
}

func TestOptionsReachTheClient(t *testing.T) {
	var calls int
	c := Start(t).Container(t, "", func(o *container.ClientOptions) {
		o.PerCallPolicies = append(o.PerCallPolicies, policyFunc(func() { calls++ }))
	})
	upload(t, c, "x", "hello")
	require.Equal(t, 1, calls)
}

type policyFunc func()

func (f policyFunc) Do(r *policy.Request) (*http.Response, error) {
	f()
	return r.Next()
}

func TestAFolderIsKept(t *testing.T) {
	dir := t.TempDir()
	s := StartFresh(t, dir)
	upload(t, s.Container(t, "kept"), "x", "hello")
	s.Stop()
	s.Stop()
	s.Kill()
	require.Equal(t, "hello", download(t, StartFresh(t, dir).Container(t, "kept"), "x"))
}

func TestItAnswersNoMoreAfterAKill(t *testing.T) {
	s := StartFresh(t, "")
	s.Kill()
	_, err := http.Get(s.URL())
	require.Error(t, err)
}

func TestWhatItSaidIsInTheError(t *testing.T) {
	node, main := find(t)
	_, err := start(t.Context(), node, main, "--cert", "/nowhere", "--pwd", "x")
	require.ErrorContains(t, err, "ENOENT")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = start(ctx, node, main, "--inMemoryPersistence")
	require.ErrorIs(t, err, context.Canceled)
}

// A process of tests that is killed runs no cleanup, and yet no server stays.
func TestItDiesWithItsTests(t *testing.T) {
	if os.Getenv("AZURITE_TEST_CHILD") != "" {
		fmt.Println("\nurl " + Start(t).URL())
		select {}
	}
	find(t)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run", "^TestItDiesWithItsTests$")
	cmd.Env = append(os.Environ(), "AZURITE_TEST_CHILD=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var url string
	for url == "" {
		var line string
		_, err := fmt.Fscanln(out, &line, &url)
		if line != "url" {
			url = ""
		}
		require.False(t, err != nil && err.Error() == "EOF", "it printed no URL")
	}
	r, err := http.Get(url)
	require.NoError(t, err)
	r.Body.Close()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool {
		r, err := http.Get(url)
		if err == nil {
			r.Body.Close()
		}
		return err != nil
	}, time.Minute, 20*time.Millisecond, "the server lives on")
}

func TestWithoutNodeTestsAreSkippedUnlessNothingMayBeMissing(t *testing.T) {
	if os.Getenv("AZURITE_TEST_CHILD") != "" {
		Start(t)
		return
	}
	self, err := os.Executable()
	require.NoError(t, err)
	for strict, want := range map[string]string{"": "--- SKIP", "all": "--- FAIL"} {
		cmd := exec.Command(self, "-test.v", "-test.run", "^"+t.Name()+"$")
		cmd.Env = []string{"AZURITE_TEST_CHILD=1", "PATH=", "LIFEBOAT_REQUIRE=" + strict}
		out, err := cmd.CombinedOutput()
		require.Equal(t, strict == "", err == nil)
		require.Contains(t, string(out), want)
		require.Contains(t, string(out), "no Azurite")
	}
}
