package fake

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// handler is the whole server: faults, authentication, authorisation, routes.
func (e *APIServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", e.serveDiscovery("application/json", e.document))
	mux.HandleFunc("/openid/v1/jwks", e.serveDiscovery("application/jwk-set+json", e.jwks))
	mux.HandleFunc("GET /api/v1/namespaces/kube-system", e.serveNamespace)
	mux.HandleFunc("GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices", e.serveEndpoints)
	mux.HandleFunc("POST /api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", e.serveToken)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok")) })
	mux.HandleFunc("/", e.serveNothing)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache, private")
		e.faulty(r.URL.Path, e.authenticated(mux)).ServeHTTP(w, r)
	})
}

func (e *APIServer) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		user, known := e.cluster.userOf(token)
		if !known {
			writeStatus(w, http.StatusUnauthorized, "Unauthorized", nil)
			return
		}
		r.Header.Set("X-Remote-User", user)
		next.ServeHTTP(w, r)
	})
}

func (e *APIServer) may(r *http.Request, right Right) bool {
	return e.cluster.may(r.Header.Get("X-Remote-User"), right)
}

// serveDiscovery is one of the two documents, with the manners of the real
// server: GET only, and the media type has to match.
func (e *APIServer) serveDiscovery(mediaType string, render func() ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !e.may(r, RightAll) && (r.Method != http.MethodGet || !e.may(r, RightDiscovery)) {
			forbidPath(w, r)
			return
		}
		if !strings.HasPrefix(e.Issuer(), "https://") {
			notFound(w) // the real server does not install the endpoints
			return
		}
		if r.Method != http.MethodGet {
			writeStatus(w, http.StatusMethodNotAllowed, "the server does not allow this method on the requested resource", map[string]any{})
			return
		}
		if !accepts(r, mediaType) {
			writeStatus(w, http.StatusNotAcceptable, "406: Not Acceptable\n\nAvailable representations: "+mediaType, map[string]any{})
			return
		}
		body, err := render()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Write(body)
	}
}

func accepts(r *http.Request, mediaType string) bool {
	accept := r.Header.Get("Accept")
	return accept == "" || strings.Contains(accept, "*/*") || strings.Contains(accept, mediaType)
}

func (e *APIServer) serveNothing(w http.ResponseWriter, r *http.Request) {
	if !e.may(r, RightAll) {
		forbidPath(w, r)
		return
	}
	notFound(w)
}

func notFound(w http.ResponseWriter) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusNotFound)
	w.Write([]byte("404 page not found\n"))
}

func (e *APIServer) serveNamespace(w http.ResponseWriter, r *http.Request) {
	if !e.may(r, RightNamespaces) {
		forbid(w, r, "get", resource{kind: "namespaces", name: "kube-system", namespace: "kube-system"})
		return
	}
	writeObject(w, http.StatusOK, map[string]any{
		"kind": "Namespace", "apiVersion": "v1",
		"metadata": map[string]any{"name": "kube-system", "uid": e.cluster.uid},
		"spec":     map[string]any{"finalizers": []string{"kubernetes"}},
		"status":   map[string]any{"phase": "Active"},
	})
}

// serveEndpoints lists one slice for each server, because a slice has one port
// for all its addresses.
func (e *APIServer) serveEndpoints(w http.ResponseWriter, r *http.Request) {
	if !e.may(r, RightEndpoints) {
		forbid(w, r, "list", resource{group: "discovery.k8s.io", kind: "endpointslices", namespace: "default"})
		return
	}
	items := []any{}
	if r.URL.Query().Get("labelSelector") == "kubernetes.io/service-name=kubernetes" {
		e.cluster.mu.Lock()
		for i, address := range e.cluster.endpoints {
			items = append(items, EndpointSlice(fmt.Sprintf("kubernetes-%d", i), address))
		}
		e.cluster.mu.Unlock()
	}
	writeObject(w, http.StatusOK, map[string]any{
		"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
		"metadata": map[string]any{"resourceVersion": "1"},
		"items":    items,
	})
}

// EndpointSlice is what kube-apiserver's endpoint reconciler writes
// (pkg/controlplane/reconcilers/endpointsadapter.go), for one address.
func EndpointSlice(name, address string) map[string]any {
	host, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	family := "IPv4"
	if strings.Contains(host, ":") {
		family = "IPv6"
	}
	return map[string]any{
		"metadata": map[string]any{
			"name": name, "namespace": "default", "uid": newUID(),
			"labels": map[string]any{"kubernetes.io/service-name": "kubernetes"},
		},
		"addressType": family,
		"endpoints":   []any{map[string]any{"addresses": []string{host}, "conditions": map[string]any{"ready": true}}},
		"ports":       []any{map[string]any{"name": "https", "port": number, "protocol": "TCP"}},
	}
}

func (e *APIServer) serveToken(w http.ResponseWriter, r *http.Request) {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")
	if !e.may(r, RightMint) {
		forbid(w, r, "create", resource{kind: "serviceaccounts", sub: "/token", name: name, namespace: namespace})
		return
	}
	var demand struct {
		Spec struct {
			Audiences         []string `json:"audiences"`
			ExpirationSeconds int64    `json:"expirationSeconds"`
		} `json:"spec"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&demand); err != nil {
		writeStatus(w, http.StatusBadRequest, "the object provided is unrecognized", map[string]any{})
		return
	}
	if demand.Spec.ExpirationSeconds < 600 {
		writeTooShort(w, demand.Spec.ExpirationSeconds)
		return
	}
	account, missing := e.account(namespace, name)
	if missing != nil {
		writeStatus(w, http.StatusNotFound, fmt.Sprintf("%s %q not found", missing["kind"], missing["name"]), missing)
		return
	}
	now, expiry := time.Now(), time.Duration(demand.Spec.ExpirationSeconds)*time.Second
	token, err := e.sign(account, demand.Spec.Audiences, now, expiry)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeObject(w, http.StatusCreated, map[string]any{
		"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
		"metadata": map[string]any{"name": name, "namespace": namespace, "uid": account.uid},
		"spec":     map[string]any{"audiences": demand.Spec.Audiences, "expirationSeconds": demand.Spec.ExpirationSeconds, "boundObjectRef": nil},
		"status":   map[string]any{"token": token, "expirationTimestamp": now.Add(expiry).UTC().Format(time.RFC3339)},
	})
}

func writeTooShort(w http.ResponseWriter, seconds int64) {
	const field = "spec.expirationSeconds"
	cause := fmt.Sprintf("Invalid value: %d: may not specify a duration less than 10 minutes", seconds)
	writeStatus(w, http.StatusUnprocessableEntity, `TokenRequest.authentication.k8s.io "" is invalid: `+field+": "+cause, map[string]any{
		"group": "authentication.k8s.io", "kind": "TokenRequest",
		"causes": []any{map[string]any{"reason": "FieldValueInvalid", "message": cause, "field": field}},
	})
}

// account finds a service account, or returns what is missing.
func (e *APIServer) account(namespace, name string) (account, map[string]any) {
	e.cluster.mu.Lock()
	defer e.cluster.mu.Unlock()
	if uid, found := e.cluster.accounts[namespace+"/"+name]; found {
		return account{namespace, name, uid}, nil
	}
	for known := range e.cluster.accounts {
		if strings.HasPrefix(known, namespace+"/") {
			return account{}, map[string]any{"name": name, "kind": "serviceaccounts"}
		}
	}
	return account{}, map[string]any{"name": namespace, "kind": "namespaces"}
}

// resource is what a refusal names.
type resource struct{ group, kind, sub, name, namespace string }

// forbid answers like apiserver/pkg/endpoints/handlers/responsewriters.
func forbid(w http.ResponseWriter, r *http.Request, verb string, what resource) {
	qualified, details := what.kind, map[string]any{"kind": what.kind}
	if what.group != "" {
		qualified += "." + what.group
		details["group"] = what.group
	}
	if what.name != "" {
		qualified += fmt.Sprintf(" %q", what.name)
		details["name"] = what.name
	}
	writeForbidden(w, fmt.Sprintf("%s is forbidden: User %q cannot %s resource %q in API group %q in the namespace %q",
		qualified, r.Header.Get("X-Remote-User"), verb, what.kind+what.sub, what.group, what.namespace), details)
}

func forbidPath(w http.ResponseWriter, r *http.Request) {
	writeForbidden(w, fmt.Sprintf("forbidden: User %q cannot %s path %q",
		r.Header.Get("X-Remote-User"), strings.ToLower(r.Method), r.URL.Path), map[string]any{})
}

func writeForbidden(w http.ResponseWriter, message string, details map[string]any) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	writeStatus(w, http.StatusForbidden, message, details)
}

// statusReasons are apimachinery's names for HTTP statuses.
var statusReasons = map[int]string{
	http.StatusUnauthorized:        "Unauthorized",
	http.StatusForbidden:           "Forbidden",
	http.StatusNotFound:            "NotFound",
	http.StatusMethodNotAllowed:    "MethodNotAllowed",
	http.StatusNotAcceptable:       "NotAcceptable",
	http.StatusUnprocessableEntity: "Invalid",
	http.StatusTooManyRequests:     "TooManyRequests",
	http.StatusInternalServerError: "InternalError",
	http.StatusServiceUnavailable:  "ServiceUnavailable",
	http.StatusBadRequest:          "BadRequest",
}

func writeStatus(w http.ResponseWriter, code int, message string, details map[string]any) {
	status := map[string]any{
		"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{},
		"status": "Failure", "message": message, "reason": statusReasons[code], "code": code,
	}
	if details != nil {
		status["details"] = details
	}
	writeObject(w, code, status)
}

func writeObject(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(object)
}
