//go:build figures

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"oidc-publisher/internal/testserver"
)

// TestWatchFigures measures, with default settings and a real API server, how
// soon a replaced key is public, and what the program takes at rest.
func TestWatchFigures(t *testing.T) {
	const rotations = 20
	l := newLab(t)
	first := testserver.NewKubeKey(t, "RS256")
	cluster, kubeconfig := l.kube(testserver.KubeOptions{Issuer: labIssuer, Keys: testserver.KubeKeys{Signing: first}})
	_, target, public := l.s3()
	l.internet.Route("issuer.example.com", routed(public))
	w := l.watch("--kubeconfig", kubeconfig, "--to", target)
	w.ready()
	before := cpu(t, w.Pid())
	began := time.Now()
	<-time.After(time.Minute) // asking it how it is would be work
	took := time.Since(began)
	used := cpu(t, w.Pid()) - before
	t.Logf("at rest for %v: %.2f %% of a core, %.1f MiB resident", took.Round(time.Second),
		100*used.Seconds()/took.Seconds(), w.metric("process_resident_memory_bytes")/(1<<20))
	t.Logf("of that: %s", memoryKinds(t, w.Pid()))

	ever, late := []string{first.ID}, []float64{}
	for range rotations {
		fresh := testserver.NewKubeKey(t, "RS256")
		ever = append(ever, fresh.ID)
		cluster.Servers[0].RestartWith(t, testserver.KubeKeys{Signing: fresh})
		late = append(late, eventually(t, time.Minute, "rotation", l.shows(labIssuer, ever...)).Seconds())
	}
	t.Logf("from the API server's readiness to public, %d times: median %.3f s, worst %.3f s: %.3f", rotations, median(late), slices.Max(late), late)
	t.Logf("after it: %.1f MiB resident", w.metric("process_resident_memory_bytes")/(1<<20))
}

// memoryKinds tells what the process made from what it has of its program's
// file, which the kernel shares and takes back.
func memoryKinds(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "RssAnon") || strings.HasPrefix(line, "RssFile") {
			kinds = append(kinds, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(kinds, ", ")
}

// cpu is what a process took so far.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	ticks := 0
	for _, field := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(string(field))
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
