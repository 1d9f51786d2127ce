package examples_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/yaml"

	"oidc-publisher/federation/pullsecret"
	"oidc-publisher/internal/testserver"
	"oidc-publisher/publish"
	"oidc-publisher/publish/watch"
)

// TestAlerts has promtool judge the rules and run their unit tests.
func TestAlerts(t *testing.T) {
	promtool(t, "check", "rules", "monitoring/alerts.yaml")
	promtool(t, "test", "rules", "monitoring/rules_test.yaml")
}

// TestEveryAlertFires in the unit tests.
func TestEveryAlertFires(t *testing.T) {
	t.Parallel()
	tests := read(t, "monitoring/rules_test.yaml")
	for _, rule := range alerts(t) {
		if !strings.Contains(tests, fmt.Sprintf(`{labels: 'ALERTS{alertname=%q,alertstate="firing"`, rule.Alert)) {
			t.Errorf("no unit test has %s fire", rule.Alert)
		}
		if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			t.Errorf("%s says too little", rule.Alert)
		}
	}
}

// TestDashboard has promtool judge the dashboard's expressions, as Grafana
// would send them.
func TestDashboard(t *testing.T) {
	type recording struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []recording
	for i, expr := range panels(t) {
		expr = strings.ReplaceAll(expr, "$__rate_interval", "5m")
		rules = append(rules, recording{fmt.Sprintf("panel_%d", i), expr})
	}
	data, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", path)
}

// TestMetricsAreKnown: the dashboard names only what a watcher has, with its
// labels, and all of it; alerts what a keeper of pull secrets has, too.
func TestMetricsAreKnown(t *testing.T) {
	known := registered(t, func(registry *prometheus.Registry) {
		watch.New(watch.Config{Publisher: &publish.Publisher{}, Interval: time.Second, Log: slog.New(slog.DiscardHandler)}, registry)
	})
	shown := map[string]bool{}
	for _, expr := range panels(t) {
		for name := range used(t, expr, known) {
			shown[name] = true
		}
	}
	for name := range known {
		if !shown[name] {
			t.Errorf("%s is not on the dashboard", name)
		}
	}
	maps.Copy(known, registered(t, func(registry *prometheus.Registry) { pullsecret.NewKeeper(pullsecret.KeeperConfig{}, registry) }))
	for _, rule := range alerts(t) {
		if len(used(t, rule.Expr, known)) == 0 {
			t.Errorf("%s is about no metric", rule.Alert)
		}
	}
	for name := range used(t, read(t, "monitoring/rules_test.yaml"), known) {
		if !strings.Contains(read(t, "monitoring/alerts.yaml"), name) {
			t.Errorf("the unit tests feed %s, and no alert is about it", name)
		}
	}
}

var (
	described = regexp.MustCompile(`^Desc\{fqName: "(\w+)".* variableLabels: \{([\w,]*)\}\}$`)
	selector  = regexp.MustCompile(`\b(oidc_publisher_\w+)(?:\{([^}]*)\})?`)
	matcher   = regexp.MustCompile(`(\w+)[=!]~?"`)
	histogram = regexp.MustCompile(`_(?:bucket|sum|count)$`)
	// scraped are the labels that a scrape adds or renames.
	scraped = []string{"namespace", "exported_namespace", "job", "instance"}
)

// registered are the metrics of a part of the program with their labels.
func registered(t *testing.T, part func(*prometheus.Registry)) map[string][]string {
	t.Helper()
	registry := prometheus.NewRegistry()
	part(registry)
	all := make(chan *prometheus.Desc)
	go func() {
		registry.Describe(all)
		close(all)
	}()
	names := map[string][]string{}
	for desc := range all {
		parts := described.FindStringSubmatch(desc.String())
		if parts == nil {
			t.Fatalf("not understood: %s", desc)
		}
		names[parts[1]] = strings.Split(parts[2], ",")
	}
	if len(names) < 5 {
		t.Fatalf("%d metrics are there: this test sees nothing", len(names))
	}
	return names
}

// used are the metrics that a text names.
func used(t *testing.T, text string, known map[string][]string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, found := range selector.FindAllStringSubmatch(text, -1) {
		name := found[1]
		if _, ok := known[name]; !ok {
			name = histogram.ReplaceAllString(name, "")
		}
		labels, ok := known[name]
		if !ok {
			t.Errorf("there is no metric %s", name)
			continue
		}
		names[name] = true
		for _, label := range matcher.FindAllStringSubmatch(found[2], -1) {
			if !slices.Contains(slices.Concat(labels, scraped), label[1]) {
				t.Errorf("%s has no label %s", name, label[1])
			}
		}
	}
	return names
}

// alert is a rule of alerts.yaml.
type alert struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alert }
	}
	if err := yaml.Unmarshal([]byte(read(t, "monitoring/alerts.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	var all []alert
	for _, group := range file.Groups {
		if len(group.Rules) == 0 {
			t.Fatal("alerts.yaml has no alerts where they are looked for")
		}
		all = append(all, group.Rules...)
	}
	if len(file.Groups) != 2 {
		t.Fatalf("alerts.yaml has %d groups", len(file.Groups))
	}
	return all
}

// panels are the expressions of the dashboard.
func panels(t *testing.T) (expressions []string) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "monitoring/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("the panel %q shows nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			expressions = append(expressions, target.Expr)
		}
	}
	if len(expressions) == 0 {
		t.Fatal("dashboard.json has no panels where they are looked for")
	}
	return expressions
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), testserver.Require(t, "promtool"), args...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "SUCCESS") {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
