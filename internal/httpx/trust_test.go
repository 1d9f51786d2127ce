package httpx

import (
	"strings"
	"testing"
)

func TestTrustCure(t *testing.T) {
	for system, want := range map[string]string{"linux": "SSL_CERT_FILE", "darwin": "the system trusts", "windows": "the system trusts"} {
		if cure := trustCure(system); !strings.Contains(cure, want) || (system != "linux") == strings.Contains(cure, "SSL_CERT") {
			t.Errorf("%s: %q", system, cure)
		}
	}
}
