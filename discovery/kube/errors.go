package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"oidc-publisher/discovery"
	"oidc-publisher/internal/httpx"
)

var (
	// ErrUnauthorized is wrapped where an API server does not know the
	// credentials (HTTP 401).
	ErrUnauthorized = errors.New("credentials were not accepted")
	// ErrForbidden is wrapped where RBAC does not allow a request (HTTP 403).
	ErrForbidden = errors.New("not allowed")
	// ErrNotInstalled is wrapped where an API server has no discovery
	// endpoints (HTTP 404).
	ErrNotInstalled = errors.New("discovery is not installed")
)

// explain turns what the HTTP client says into what is wrong, where, and what
// to do. The URL is left out: a kubeconfig's may hold a password.
func (s server) explain(ctx context.Context, r request, err error) error {
	if urlError := (*url.Error)(nil); errors.As(err, &urlError) {
		err = urlError.Err
	}
	where := "API server " + s.address()
	if s.proxy != "" {
		where += " (through proxy " + s.proxy + ")"
	}
	if text := explainTLS(err); text != "" {
		return fmt.Errorf("%s: %s: %w", where, text, err)
	}
	var dns *net.DNSError
	var network net.Error
	var socket *net.OpError
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", where, err)
	case errors.As(err, &dns):
		return fmt.Errorf("%s: the host name %q can't be resolved: check the kubeconfig's server and this machine's DNS: %w", where, dns.Name, err)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: no answer before the deadline: %w", where, ctx.Err())
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("%s: no answer within %v: check that it is up and reachable from here (firewall, VPN, wrong address): %w",
			where, s.timeout.Round(time.Millisecond), err)
	case errors.As(err, &socket) && socket.Op == "dial":
		return fmt.Errorf("%s: can't connect: the API server is down, or the kubeconfig names a wrong address or port: %w", where, err)
	case errors.Is(err, httpx.ErrTooLarge):
		return fmt.Errorf("%s: answer to %s is larger than %d bytes: this is not the document of an API server: %w", where, r, discovery.MaxSize, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: the connection broke in the middle of the answer to %s: try again: %w", where, r, err)
	default:
		// Not wrapped: the text may repeat what a stranger sent.
		return fmt.Errorf("%s: the request for %s failed: %s: try again, and if it stays so look at what stands between", where, r, cut(err.Error()))
	}
}

func explainTLS(err error) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	switch {
	case errors.As(err, &unknown):
		return "its certificate was not issued by the CA that the kubeconfig trusts: get a current kubeconfig " +
			"(certificate-authority-data), or find out who answers at this address"
	case errors.As(err, &name):
		return "its certificate is made out for other names: connect by one of them, or set tls-server-name in the kubeconfig"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return explainValidity(invalid.Cert)
	case errors.As(err, &invalid):
		return "its certificate is not valid"
	case errors.As(err, &alert):
		return "it ended the TLS handshake: it may refuse this client's certificate"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "it speaks plain HTTP: the kubeconfig's server must be the API server's https port"
	default:
		return ""
	}
}

func explainValidity(cert *x509.Certificate) string {
	if cert != nil && time.Now().Before(cert.NotBefore) {
		return fmt.Sprintf("its certificate is valid only from %s: check this machine's clock", cert.NotBefore.UTC().Format(time.RFC3339))
	}
	expired := ""
	if cert != nil {
		expired = " on " + cert.NotAfter.UTC().Format(time.RFC3339)
	}
	return "its certificate expired" + expired + ": renew it (kubeadm certs renew apiserver), or check this machine's clock"
}

// explainStatus turns an unwelcome HTTP status into an error. Bodies are never
// repeated: only the user name is taken from them.
func (s server) explainStatus(r request, a answer) error {
	where := "API server " + s.address()
	status, genuine := a.kubeStatus()
	switch {
	case a.status == http.StatusUnauthorized:
		return fmt.Errorf("%s: %w (HTTP 401): the token or certificate is wrong, expired or of another cluster: log in again or renew the kubeconfig", where, ErrUnauthorized)
	case a.status == http.StatusForbidden && genuine:
		return s.explainForbidden(verb(r)+" "+r.String(), r.allow, status.Message)
	case a.status == http.StatusForbidden:
		return fmt.Errorf("%s: %s %w (HTTP 403) by something that is no API server: a proxy or firewall on the way?", where, r, ErrForbidden)
	case a.status == http.StatusNotFound && isDiscovery(r.path):
		return s.explainNotInstalled(r)
	case a.status >= 300 && a.status < 400:
		return fmt.Errorf("%s: redirects %s to %s (HTTP %d), and credentials are not sent there: set the kubeconfig's server to the API server itself",
			where, r, redirectHost(a), a.status)
	case a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable:
		return &BusyError{Server: s.address(), Status: a.status, After: retryAfter(a)}
	case a.status == http.StatusMethodNotAllowed || a.status == http.StatusNotAcceptable:
		return fmt.Errorf("%s: refuses a plain GET of %s (HTTP %d), which no API server does: check the kubeconfig's server and proxies on the way", where, r, a.status)
	case a.status == http.StatusBadRequest && s.base.Scheme == "http":
		return fmt.Errorf("%s: HTTP 400: it may want https: check the kubeconfig's server", where)
	case a.status >= 500:
		return fmt.Errorf("%s: failed to answer %s (HTTP %d): its log says why", where, r, a.status)
	default:
		return fmt.Errorf("%s: unexpected HTTP status %d for %s", where, a.status, r)
	}
}

func isDiscovery(path string) bool {
	return path == discovery.ConfigurationPath || path == discovery.JWKSPath
}

func (s server) explainNotInstalled(r request) error {
	hint := ""
	if s.base.Path != "" && s.base.Path != "/" {
		hint = fmt.Sprintf("; the kubeconfig's server has the path %q: check that too", s.base.Path)
	}
	return fmt.Errorf("API server %s: %w (HTTP 404 for %s): kube-apiserver leaves it out when --service-account-issuer is not an https URL "+
		"without query and fragment: set --service-account-issuer=https://… (its log says \"issuer URL must use https scheme\")%s",
		s.address(), ErrNotInstalled, r, hint)
}

func (s server) explainForbidden(what string, allow func(subject string) string, message string) error {
	user := userOf(message)
	if user == "" {
		user = s.user()
	}
	if user == "system:anonymous" {
		return fmt.Errorf("API server %s: %w without credentials (HTTP 403): the kubeconfig's user has no token, certificate or exec plugin", s.address(), ErrForbidden)
	}
	who := "this user"
	if user != "" {
		who = fmt.Sprintf("user %q", user)
	}
	return fmt.Errorf("API server %s: %s is %w to %s (HTTP 403): an administrator can allow it with: %s",
		s.address(), who, ErrForbidden, what, allow(subject(user)))
}

func verb(r request) string {
	switch {
	case r.method == http.MethodPost:
		return "create"
	case r.query != nil:
		return "list"
	default:
		return "get"
	}
}

// explainContent is for an answer of status 200 that is not what it should be.
func (s server) explainContent(r request, a answer, err error) error {
	if !a.isJSON() {
		return fmt.Errorf("API server %s: answered %s with %s and not JSON: a login page or gateway stands before the API server: "+
			"set the kubeconfig's server to the API server itself", s.address(), r, mediaType(a))
	}
	return fmt.Errorf("API server %s: %s: %w", s.address(), r, err)
}

func mediaType(a answer) string {
	media, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	return strconv.Quote(cut(media))
}

func redirectHost(a answer) string {
	u, err := url.Parse(a.header.Get("Location"))
	if err != nil || u.Host == "" {
		return "another path"
	}
	return strconv.Quote(cut(u.Host))
}

// retryAfter reads the header of RFC 9110 section 10.2.3, in seconds as API
// servers send it; 0 if there is none.
func retryAfter(a answer) time.Duration {
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || seconds < 0 || seconds > maxRetryAfter {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// maxRetryAfter in seconds is where a wish becomes a mistake.
const maxRetryAfter = 24 * 60 * 60

// BusyError says that an API server is overloaded or not ready (HTTP 429, 503).
type BusyError struct {
	// Server is host and port.
	Server string
	// Status is the HTTP status.
	Status int
	// After is how long the server asks to be left alone, 0 if it does not say.
	After time.Duration
}

func (e *BusyError) Error() string {
	patience := ""
	if e.After > 0 {
		patience = fmt.Sprintf(", and asks for %d s of patience", int(e.After.Seconds()))
	}
	return fmt.Sprintf("API server %s: is overloaded or not ready (HTTP %d)%s: try again later", e.Server, e.Status, patience)
}

// RetryAfter is After, for callers that know no API servers.
func (e *BusyError) RetryAfter() time.Duration { return e.After }

// maxName bounds the names of strangers in messages.
const maxName = 253

func cut(s string) string {
	if len(s) > maxName {
		return s[:maxName]
	}
	return s
}

// userOf reads the name in the API server's `User "jane" cannot get path …`
// (apiserver/pkg/endpoints/handlers/responsewriters/errors.go), which escapes
// the three characters of HTML. "" for anything doubtful: the name becomes part
// of a command that people copy.
func userOf(message string) string {
	_, rest, found := strings.Cut(message, `User "`)
	if !found {
		return ""
	}
	quoted, err := strconv.QuotedPrefix(`"` + rest)
	if err != nil {
		return ""
	}
	name, err := strconv.Unquote(quoted)
	if err != nil || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return ""
	}
	return strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&").Replace(name)
}

// subject is the flag of kubectl that names the user.
func subject(user string) string {
	if user == "" {
		return "--user=NAME (or --serviceaccount=NAMESPACE:NAME)"
	}
	if a, ok := accountOf(user); ok {
		return "--serviceaccount=" + a.namespace + ":" + a.name
	}
	return "--user=" + shellQuote(user)
}

func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) || slices.Contains([]rune("@%+=:,./_-"), r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
