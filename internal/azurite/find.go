package azurite

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
)

// find returns node and the blob service's main file, or skips the test.
func find(t testing.TB) (node, main string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err == nil {
		main, err = installed()
	}
	if err == nil {
		return node, main
	}
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("no Azurite, and LIFEBOAT_REQUIRE=all: %v", err)
	}
	t.Skipf("no Azurite: %v (run .ci/azurite)", err)
	return "", ""
}

// installed looks for Azurite from the root of the repository, which is above
// the folder that a test runs in.
func installed() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = up
	}
	main := filepath.Join(dir, ".cache", "azurite", "node_modules", "azurite", "dist", "src", "blob", "main.js")
	if _, err := os.Stat(main); err != nil {
		return "", err
	}
	return main, nil
}

func exists(err error) bool { return bloberror.HasCode(err, bloberror.ContainerAlreadyExists) }
