package examples_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"oidc-publisher/internal/fake"
	"oidc-publisher/internal/testserver"
)

// TestWatch applies each overlay and runs its Deployment's pod as its service
// account, and then takes away one right after the other.
func TestWatch(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	t.Run("directory", func(t *testing.T) { testDirectory(t, p) })
	t.Run("gcs", func(t *testing.T) { testGCS(t, p) })
	t.Run("s3", func(t *testing.T) { testS3(t, p) })
	t.Run("replicas", func(t *testing.T) { testReplicas(t, p) })
	t.Run("rights", func(t *testing.T) { testRights(t, p) })
}

func testDirectory(t *testing.T, p *plane) {
	objects := kustomize(t, "directory", false)
	p.apply(t, objects)
	q := p.pod(t, objects, nil, nil)
	p.internet.Route(issuerHost, http.StripPrefix("/cluster-a", fake.Website(q.volumes["issuer"])))
	p.serves(t, q)
}

// testReplicas: both publish, and what one of them leaves the other goes on with.
func testReplicas(t *testing.T, p *plane) {
	objects := kustomize(t, "directory", false)
	p.apply(t, objects)
	first, second := p.pod(t, objects, nil, nil), p.pod(t, objects, nil, nil)
	p.internet.Route(issuerHost, http.StripPrefix("/cluster-a", fake.Website(first.volumes["issuer"])))
	second.env = append(second.env, "OIDC_PUBLISHER_TO="+first.volumes["issuer"])
	first.start()
	second.start()
	for _, q := range []*pod{first, second} {
		eventually(t, q.wants("/readyz", http.StatusOK))
	}
	first.process.Stop()
	if err := os.Remove(filepath.Join(first.volumes["issuer"], "openid", "v1", "jwks")); err != nil {
		t.Fatal(err)
	}
	eventually(t, p.accepted(t, p.MintToken(t, "default", "default", "relying-party")))
}

// testGCS has doubles of Google's two sides: the token service takes what a
// relying party of the public issuer takes, and storage takes its token.
func testGCS(t *testing.T, p *plane) {
	objects := kustomize(t, "gcs", false)
	p.apply(t, objects)
	server := testserver.GCS(t)
	server.CreateBucket(t, "my-issuer")
	p.internet.Route(issuerHost, fake.Upstream(server.Endpoint+"/my-issuer"))
	target := settings(t, objects)["OIDC_PUBLISHER_TO"]
	p.bootstrap(t, target, "STORAGE_EMULATOR_HOST="+server.Host)

	const granted = "token-of-google"
	storage := fake.Upstream(server.Endpoint)
	p.internet.Route("storage.googleapis.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+granted {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		storage.ServeHTTP(w, r)
	}))
	p.internet.Route("sts.googleapis.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token: the
		// provider's name, with https:, is the audience that its tokens must have.
		provider := r.FormValue("audience")
		subject, err := p.verify(r.Context(), r.FormValue("subject_token"), "https:"+provider)
		if err != nil || subject != account || !strings.Contains(provider, "/workloadIdentityPools/") {
			http.Error(w, fmt.Sprintf(`{"error": "invalid_grant", "error_description": "%s, %v"}`, subject, err), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": granted, "token_type": "Bearer", "expires_in": 3600,
			"issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
		})
	}))
	p.heals(t, p.pod(t, objects, nil, nil), func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, server.Endpoint+"/storage/v1/b/my-issuer/o/cluster-a%2Fopenid%2Fv1%2Fjwks", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode/100 != 2 {
			t.Fatal(err, resp)
		}
		resp.Body.Close()
	})
}

// testS3 has a double of AWS's token service, which hands out the S3 server's
// credentials. The target is that server's bucket.
func testS3(t *testing.T, p *plane) {
	objects := kustomize(t, "s3", false)
	p.apply(t, objects)
	server := testserver.S3(t)
	server.CreateBucket(t, "my-issuer")
	server.MakePublic(t, "my-issuer")
	p.internet.Route(issuerHost, fake.Upstream(server.Endpoint+"/my-issuer"))
	config := settings(t, objects)
	bucket, _, _ := strings.Cut(config["OIDC_PUBLISHER_TO"], "?")
	target := bucket + "?region=" + testserver.S3Region + "&path-style=true&endpoint=" + server.Endpoint
	p.bootstrap(t, target, "AWS_ACCESS_KEY_ID="+server.AccessKey, "AWS_SECRET_ACCESS_KEY="+server.SecretKey)

	p.internet.Route("sts."+testserver.S3Region+".amazonaws.com", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		subject, err := p.verify(r.Context(), r.FormValue("WebIdentityToken"), "sts.amazonaws.com")
		if err != nil || subject != account || r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("RoleArn") != config["AWS_ROLE_ARN"] {
			http.Error(w, fmt.Sprintf("%s, %v", subject, err), http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
			<Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken></SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
			</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, server.AccessKey, server.SecretKey)
	}))
	q := p.pod(t, objects, nil, []string{"OIDC_PUBLISHER_TO=" + target})
	p.heals(t, q, func() {
		if err := os.Remove(filepath.Join(server.Dir, "my-issuer", "cluster-a", "openid", "v1", "jwks")); err != nil {
			t.Fatal(err)
		}
	})
}

func settings(t *testing.T, objects []object) (data map[string]string) {
	t.Helper()
	var spec podSpec
	into(t, one(t, objects, "Deployment", ""), &spec, "spec", "template", "spec")
	into(t, one(t, objects, "ConfigMap", spec.Containers[0].EnvFrom[0].ConfigMapRef.Name), &data, "data")
	return data
}

// apply applies all objects, and checks that the namespace takes the pod.
func (p *plane) apply(t *testing.T, objects []object) {
	t.Helper()
	for _, o := range objects {
		p.Apply(t, o)
	}
	t.Cleanup(func() { p.Delete(t, one(t, objects, "Deployment", "")) }) // the next one is another
	for _, r := range rights(t, objects) {
		p.AwaitAccess(t, namespace, namespace, true, r.attributes())
	}
	p.selects(t, objects)
	var template, unsafe object
	into(t, one(t, objects, "Deployment", ""), &template, "spec", "template")
	template["apiVersion"], template["kind"] = "v1", "Pod"
	template["metadata"].(map[string]any)["name"] = "dry-run"
	template["metadata"].(map[string]any)["namespace"] = namespace
	if err := p.DryRun(t, template); err != nil {
		t.Errorf("the namespace refuses the pod: %v", err)
	}
	into(t, template, &unsafe)
	delete(unsafe["spec"].(map[string]any), "securityContext")
	if err := p.DryRun(t, unsafe); err == nil || !strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("the namespace takes a pod that may be root: %v", err)
	}
}

// selects checks that all selectors are those of the pod's label.
func (p *plane) selects(t *testing.T, objects []object) {
	t.Helper()
	var labels map[string]string
	into(t, one(t, objects, "Deployment", ""), &labels, "spec", "template", "metadata", "labels")
	for kind, path := range map[string][]string{
		"Deployment": {"spec", "selector", "matchLabels"}, "PodDisruptionBudget": {"spec", "selector", "matchLabels"},
		"NetworkPolicy": {"spec", "podSelector", "matchLabels"},
	} {
		var selector map[string]string
		into(t, one(t, objects, kind, ""), &selector, path...)
		if len(selector) == 0 {
			t.Errorf("%s selects everything", kind)
		}
		for key, value := range selector {
			if labels[key] != value {
				t.Errorf("%s selects %s=%s, and the pod has %q", kind, key, value, labels[key])
			}
		}
	}
}

// serves checks that the pod publishes and answers its probes.
func (p *plane) serves(t *testing.T, q *pod) {
	t.Helper()
	q.start()
	container := q.spec.Containers[0]
	for _, probe := range []string{container.StartupProbe.HTTPGet.Path, container.LivenessProbe.HTTPGet.Path, container.ReadinessProbe.HTTPGet.Path} {
		eventually(t, q.wants(probe, http.StatusOK))
	}
	for _, probe := range []string{container.StartupProbe.HTTPGet.Port, container.LivenessProbe.HTTPGet.Port, container.ReadinessProbe.HTTPGet.Port} {
		if probe != container.Ports[0].Name || container.Ports[0].ContainerPort != 8080 {
			t.Errorf("a probe is for the port %q, and the program listens at 8080: %v", probe, container.Ports)
		}
	}
	eventually(t, p.accepted(t, p.MintToken(t, "default", "default", "relying-party")))
	q.process.Stop()
	if log := q.process.Output(); strings.Contains(log, "not allowed") || strings.Contains(log, "may not") {
		t.Errorf("something was forbidden:\n%s", log)
	}
}

// heals is serves for a target that was published to already: what is deleted
// comes back, so the pod may write.
func (p *plane) heals(t *testing.T, q *pod, drop func()) {
	t.Helper()
	token := p.MintToken(t, "default", "default", "relying-party")
	eventually(t, p.accepted(t, token))
	leading := q.start()
	eventually(t, leading.wants("/readyz", http.StatusOK))
	drop()
	eventually(t, p.accepted(t, token))
	q.process.Stop()
	p.serves(t, q)
}
