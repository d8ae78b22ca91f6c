package azuretest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"
	"github.com/stretchr/testify/require"
)

// flat lists names, page by page.
func flat(t *testing.T, c *container.Client, o container.ListBlobsFlatOptions) string {
	t.Helper()
	var list []string
	for pager := c.NewListBlobsFlatPager(&o); pager.More(); {
		page, err := pager.NextPage(t.Context())
		require.NoError(t, err)
		for _, b := range page.Segment.BlobItems {
			list = append(list, *b.Name)
		}
	}
	return strings.Join(list, " ")
}

var containerFacts = []blobFact{
	{"a container is made once", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		_, err := c.Create(t.Context(), nil)
		refused(t, err, 409, "ContainerAlreadyExists")
		_, err = e.service(t).NewContainerClient("UPPER").Create(t.Context(), nil)
		refused(t, err, 400, "InvalidResourceName")
		_, err = e.service(t).NewContainerClient("ab").Create(t.Context(), nil)
		refused(t, err, 400, "OutOfRangeInput")
	}},
	{"a container that is deleted has nothing", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		put(t, c.NewBlockBlobClient("b"), "text")
		_, err := c.Delete(t.Context(), nil)
		require.NoError(t, err)
		_, err = c.GetProperties(t.Context(), nil)
		refused(t, err, 404, "ContainerNotFound")
		_, err = c.NewBlockBlobClient("b").GetProperties(t.Context(), nil)
		refused(t, err, 404, "ContainerNotFound")
		_, err = c.NewBlockBlobClient("b").Upload(t.Context(), body(nil), nil)
		refused(t, err, 404, "ContainerNotFound")
	}},
	{"a container has metadata", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		before, err := c.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		_, err = c.SetMetadata(t.Context(), &container.SetMetadataOptions{Metadata: map[string]*string{"one": ptr("1"), "two_2": ptr("x y")}})
		require.NoError(t, err)
		after, err := c.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, map[string]*string{"One": ptr("1"), "Two_2": ptr("x y")}, after.Metadata)
		require.NotEqual(t, *before.ETag, *after.ETag)
	}},
	{"containers are listed by prefix", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		s := e.service(t)
		prefix := strings.TrimPrefix(c.URL(), s.URL())
		prefix = strings.Trim(prefix, "/") + "-x"
		for i := range 3 {
			_, err := s.CreateContainer(t.Context(), fmt.Sprint(prefix, i), &service.CreateContainerOptions{Metadata: map[string]*string{"n": ptr(fmt.Sprint(i))}})
			require.NoError(t, err)
		}
		var got []string
		for pager := s.NewListContainersPager(&service.ListContainersOptions{Prefix: &prefix, MaxResults: ptr(int32(2)), Include: service.ListContainersInclude{Metadata: true}}); pager.More(); {
			page, err := pager.NextPage(t.Context())
			require.NoError(t, err)
			for _, i := range page.ContainerItems {
				got = append(got, *i.Name+"="+*i.Metadata["n"])
			}
		}
		require.Equal(t, []string{prefix + "0=0", prefix + "1=1", prefix + "2=2"}, got)
	}},
	{"blobs are listed in order, by prefix, page by page", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		for _, name := range []string{"b", "a/2", "a/1", "a", "c/d/e", "ä & <x>"} {
			put(t, c.NewBlockBlobClient(name), name)
		}
		for n := range int32(7) {
			o := container.ListBlobsFlatOptions{MaxResults: ptr(n + 1)}
			require.Equal(t, "a a/1 a/2 b c/d/e ä & <x>", flat(t, c, o))
			o.Prefix = ptr("a/")
			require.Equal(t, "a/1 a/2", flat(t, c, o))
			o.Prefix = ptr("z")
			require.Empty(t, flat(t, c, o))
		}
		require.Equal(t, []byte("ä & <x>"), get(t, c.NewBlobClient("ä & <x>"), 0, 0))
	}},
	{"blobs are listed by folders", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		for _, name := range []string{"a/1", "a/2", "b", "c/d/e", "c/f", "g"} {
			put(t, c.NewBlockBlobClient(name), name)
		}
		list := func(prefix string, max int32) string {
			var names []string
			for pager := c.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{Prefix: &prefix, MaxResults: &max}); pager.More(); {
				page, err := pager.NextPage(t.Context())
				require.NoError(t, err)
				for _, p := range page.Segment.BlobPrefixes {
					names = append(names, *p.Name)
				}
				for _, b := range page.Segment.BlobItems {
					names = append(names, *b.Name)
				}
			}
			return strings.Join(names, " ")
		}
		require.Equal(t, "a/ c/ b g", list("", 10))
		require.Equal(t, "a/ b c/ g", list("", 1))
		require.Equal(t, "c/d/ c/f", list("c/", 10))
		require.Equal(t, "c/d/ c/f", list("c/", 1))
	}},
	{"a list tells what it is asked to", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		put(t, b, "text")
		_, err := b.SetMetadata(t.Context(), map[string]*string{"k": ptr("<v>")}, nil)
		require.NoError(t, err)
		_, err = b.StartCopyFromURL(t.Context(), b.URL(), nil)
		require.NoError(t, err)
		_, err = c.NewBlockBlobClient("staged").StageBlock(t.Context(), "AAAA", body([]byte("text")), nil)
		require.NoError(t, err)
		require.Equal(t, "b", flat(t, c, container.ListBlobsFlatOptions{}))
		require.Equal(t, "b staged", flat(t, c, container.ListBlobsFlatOptions{Include: container.ListBlobsInclude{UncommittedBlobs: true}}))
		page, err := c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Include: container.ListBlobsInclude{Metadata: true, Copy: true}}).NextPage(t.Context())
		require.NoError(t, err)
		i := page.Segment.BlobItems[0]
		require.Equal(t, "<v>", *i.Metadata["k"])
		require.Equal(t, "success", string(*i.Properties.CopyStatus))
		require.EqualValues(t, 4, *i.Properties.ContentLength)
		props, err := b.GetProperties(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, strings.Trim(string(*props.ETag), `"`), strings.Trim(string(*i.Properties.ETag), `"`))
		require.Equal(t, props.LastModified.UTC(), i.Properties.LastModified.UTC())
	}},
	{"a list tells no more than it is asked to", "Azurite always tells of copies", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		put(t, b, "text")
		_, err := b.SetMetadata(t.Context(), map[string]*string{"k": ptr("v")}, nil)
		require.NoError(t, err)
		_, err = b.StartCopyFromURL(t.Context(), b.URL(), nil)
		require.NoError(t, err)
		page, err := c.NewListBlobsFlatPager(nil).NextPage(t.Context())
		require.NoError(t, err)
		require.Empty(t, page.Segment.BlobItems[0].Metadata)
		require.Nil(t, page.Segment.BlobItems[0].Properties.CopyID)
	}},
	{"many blobs are deleted in one call", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		put(t, c.NewBlockBlobClient("a"), "text")
		put(t, c.NewBlockBlobClient("dir/b"), "text")
		batch, err := c.NewBatchBuilder()
		require.NoError(t, err)
		for _, name := range []string{"a", "none", "dir/b"} {
			require.NoError(t, batch.Delete(name, nil))
		}
		r, err := c.SubmitBatch(t.Context(), batch, nil)
		require.NoError(t, err)
		require.Len(t, r.Responses, 3)
		require.NoError(t, r.Responses[0].Error)
		refused(t, r.Responses[1].Error, 404, "BlobNotFound")
		require.NoError(t, r.Responses[2].Error)
		require.Empty(t, flat(t, c, container.ListBlobsFlatOptions{}))
	}},
	{"metadata has at most 8 KiB, and names of letters", "Azurite takes more", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		put(t, b, "text")
		_, err := b.SetMetadata(t.Context(), map[string]*string{"k": ptr(strings.Repeat("x", 8<<10))}, nil)
		refused(t, err, 400, "MetadataTooLarge")
		_, err = b.SetMetadata(t.Context(), map[string]*string{"a-b": ptr("x")}, nil)
		refused(t, err, 400, "InvalidMetadata")
	}},
	{"the version of the interface must be told", "Azurite takes what has none", func(t *testing.T, e *blobEnv, c *container.Client) {
		err := raw(t, "GET", c.URL()+"?restype=container", map[string]string{"Authorization": "Bearer x"})
		refused(t, err, 400, "MissingRequiredHeader")
	}},
	{"a blob deleted and made again is new", "", func(t *testing.T, e *blobEnv, c *container.Client) {
		b := c.NewBlockBlobClient("b")
		one := put(t, b, "text")
		_, err := b.Delete(t.Context(), nil)
		require.NoError(t, err)
		_, err = b.Delete(t.Context(), nil)
		refused(t, err, 404, "BlobNotFound")
		require.NotEqual(t, one, put(t, b, "text"))
		_, err = b.Delete(t.Context(), &blob.DeleteOptions{AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &one}}})
		refused(t, err, 412, "ConditionNotMet")
	}},
}
