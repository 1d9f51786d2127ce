package pullsecret

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"oidc-publisher/federation/exchange"
)

// TestLifeIsCountedFromTheAnswer: a slow exchange must not make the lifetime look
// longer than it is, or a --min-remaining that is never met goes unnoticed.
func TestLifeIsCountedFromTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := Job{Exchange: func(context.Context) (exchange.Credential, error) {
			time.Sleep(time.Second)
			return exchange.Credential{Expiry: time.Now().Add(2 * time.Hour)}, nil
		}}
		var report Report
		if err := j.write(t.Context(), &report); err != nil {
			t.Fatal(err)
		}
		if report.Life != 2*time.Hour {
			t.Errorf("life is %v, want 2h", report.Life)
		}
	})
}
