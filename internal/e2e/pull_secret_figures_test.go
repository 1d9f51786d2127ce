//go:build figures

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"oidc-publisher/internal/testserver"

	"oidc-publisher/internal/cli"
)

// TestPullSecretFigures measures what a pull secret in a namespace costs, with
// this program and with the loop of kubectl that it replaces, on the same API
// server one after the other. The loop's credential is there already: only the
// writing is compared, and ours has the exchange in it.
func TestPullSecretFigures(t *testing.T) {
	const total, rounds, looped = 1000, 5, 10
	p := newPuller(t)
	var names []string
	for i := range total {
		names = append(names, fmt.Sprintf("team-%04d", i))
	}
	p.namespaces(names...)
	args := p.cloudsmithArgs("--namespace-selector", "images=private")
	kubectl := testserver.Require(t, "kubectl")
	ours, loop := map[string][]time.Duration{}, map[string][]time.Duration{}
	for round := range rounds { // in turn, as the machine has other things to do
		what := "updated"
		if round == 0 {
			what = "created"
		}
		began := time.Now()
		result := p.pull(cli.ExitDone, args...)
		ours[what] = append(ours[what], time.Since(began)/total)
		if n := len(result.Namespaces); n != total || result.Namespaces[0].Outcome != what {
			t.Fatalf("%d namespaces, %s", n, result.Namespaces[0].Outcome)
		}
		for _, namespace := range names[:looped] {
			loop[what] = append(loop[what], p.loop(kubectl, namespace))
		}
	}
	for _, what := range []string{"created", "updated"} {
		a, b := medianOf(ours[what]), medianOf(loop[what])
		t.Logf("%s: ours %v a namespace (%d namespaces, %d runs), kubectl's loop %v (median of %d): %.0f times faster (goal 100)", what,
			a.Round(time.Microsecond), total, len(ours[what]), b.Round(time.Millisecond), len(loop[what]), b.Seconds()/a.Seconds())
	}
	began := time.Now()
	p.pull(cli.ExitDone, append(args, "--min-remaining", "1h")...)
	t.Logf("ours, nothing to do: %v for %d namespaces", time.Since(began).Round(time.Millisecond), total)

	w := p.refresh(args...)
	w.ready()
	p.namespaces("late")
	t.Logf("--refresh: a new namespace has its secret after %v", eventually(t, 30*time.Second, "a new namespace", func() error {
		_, there := p.secretIfAny("late")
		return errorUnless(there, "it has none")
	}).Round(time.Millisecond))
	<-time.After(30 * time.Second)
	t.Logf("--refresh with %d namespaces at rest: %.1f MiB resident, of that %s", total, w.metric("process_resident_memory_bytes")/(1<<20), memoryKinds(t, w.Pid()))
}

func medianOf(all []time.Duration) time.Duration {
	var seconds []float64
	for _, d := range all {
		seconds = append(seconds, d.Seconds())
	}
	return time.Duration(median(seconds) * float64(time.Second))
}

// loop is one turn of the loop, in a secret of its own.
func (p *puller) loop(kubectl, namespace string) time.Duration {
	p.t.Helper()
	const script = `"$KUBECTL" create secret docker-registry looped --namespace="$NAMESPACE" --docker-server=docker.cloudsmith.io \
  --docker-username=token --docker-password=some-credential --dry-run=client -o yaml | "$KUBECTL" apply -f -`
	cmd := exec.CommandContext(p.t.Context(), "sh", "-c", script)
	cmd.Env = []string{"KUBECTL=" + kubectl, "NAMESPACE=" + namespace, "KUBECONFIG=" + p.admin, "HOME=" + p.dir, "PATH=" + os.Getenv("PATH")}
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	if err != nil || !strings.Contains(string(out), "secret/looped") {
		p.t.Fatalf("kubectl: %v\n%s", err, out)
	}
	return took
}
