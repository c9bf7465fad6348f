package container

import (
	"os"
	"testing"

	"github.com/bpfacq/bpfacq/test/testutil"
)

func TestMain(m *testing.M) { os.Exit(testutil.Main(m, nil)) }
