package e2e

import (
	"os"
	"slices"
	"testing"
	"time"

	"oidc-publisher/internal/fake"
)

// TestWatchSoak looks every second at a cluster whose keys change all the time:
// memory and goroutines stay flat. OIDC_PUBLISHER_SOAK is for how long.
func TestWatchSoak(t *testing.T) {
	t.Parallel()
	long := 25 * time.Second
	if given := os.Getenv("OIDC_PUBLISHER_SOAK"); given != "" {
		var err error
		if long, err = time.ParseDuration(given); err != nil {
			t.Fatal(err)
		}
	}
	l := newLab(t)
	api, kubeconfig := l.embedded(watched(labIssuer))
	api.Grant("publisher", fake.RightEndpoints)
	_, target, public := l.s3()
	l.internet.Route("issuer.example.com", routed(public))
	w := l.watch("--kubeconfig", kubeconfig, "--to", target, "--interval", "1s", "--verify-interval", "1s", "--grace", "5s", "--all-api-servers")
	w.ready()
	var memory, goroutines []float64
	began := time.Now()
	for sample := 0; time.Since(began) < long; sample++ {
		if sample%3 == 0 {
			if _, err := api.Rotate("ES256"); err != nil {
				t.Fatal(err)
			}
			if ids := api.KeyIDs(); len(ids) > 2 {
				api.RemoveKey(ids[0])
			}
		}
		w.fetches(1)
		memory = append(memory, w.metric("process_resident_memory_bytes"))
		goroutines = append(goroutines, w.metric("go_goroutines"))
	}
	w.alive()
	half := len(memory) / 2
	early, late := median(memory[:half]), median(memory[half:])
	t.Logf("%v: memory from %.1f to %.1f MiB, at most %.1f; goroutines from %v to %v, at most %v; %v rotations, %v looks",
		long, early/(1<<20), late/(1<<20), slices.Max(memory)/(1<<20), median(goroutines[:half]), median(goroutines[half:]), slices.Max(goroutines),
		w.metric("oidc_publisher_rotations_total"), w.metric("oidc_publisher_fetches_total"))
	if long >= time.Minute && late > early*1.2 {
		t.Error("memory grows")
	}
	if median(goroutines[half:]) > median(goroutines[:half])+5 {
		t.Error("goroutines grow")
	}
	if n := len(w.failures()); n > 1 { // that of the certificate, which lasts for an hour
		t.Errorf("there were faults:\n%s", w.Output())
	}
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}
