package tunnel

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// UnknownHostError is a server whose host key nobody has vouched for.
type UnknownHostError struct {
	// Address is the server's host and port, Fingerprint that of the key it
	// shows, and Type the key's type.
	Address, Fingerprint, Type string
	key                        ssh.PublicKey
}

func (e *UnknownHostError) Error() string {
	return fmt.Sprintf("%s is not in known_hosts; it shows the host key %s (%s): if that is its key, go on with --tunnel-host-key %s, or log in once with ssh, which remembers it",
		e.Address, e.Fingerprint, e.Type, e.Fingerprint)
}

// ChangedHostError is a server that shows another host key than it should.
type ChangedHostError struct {
	// Address is the server's host and port, Shown the fingerprint of its key.
	Address, Shown string
	// Wanted are the fingerprints that it should have, each with who says so.
	Wanted []string
	hint   string
}

func (e *ChangedHostError) Error() string {
	return fmt.Sprintf("%s shows the host key %s, but it should be %s: somebody may have got in between; %s",
		e.Address, e.Shown, strings.Join(e.Wanted, " or "), e.hint)
}

// hostKeys judges a server's host keys.
type hostKeys struct {
	// pin is the one fingerprint that counts, if not empty.
	pin string
	// files are in known_hosts's format; those that don't exist are left out.
	files []string
	// trusted was accepted by a person in this run.
	trusted ssh.PublicKey
	// family are the algorithms by which the server showed the pinned key.
	family []string
}

// check returns a callback for ssh.ClientConfig and the host key algorithms to
// ask for, those of the keys that the server is known by first.
func (h *hostKeys) check(address string) (ssh.HostKeyCallback, []string, error) {
	if h.pin != "" {
		return h.checkPin, orderAlgorithms(nil), nil
	}
	var files []string
	for _, file := range h.files {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			files = append(files, file)
		}
	}
	known, err := knownhosts.New(files...)
	if err != nil {
		return nil, nil, fmt.Errorf("read the known hosts: %w", err)
	}
	check := func(address string, remote net.Addr, key ssh.PublicKey) error {
		if h.trusted != nil && string(h.trusted.Marshal()) == string(key.Marshal()) {
			return nil
		}
		return explainHostKey(address, key, known(address, remote, key))
	}
	return check, orderAlgorithms(knownKeys(known, address)), nil
}

func (h *hostKeys) checkPin(address string, _ net.Addr, key ssh.PublicKey) error {
	if shown := ssh.FingerprintSHA256(key); shown != h.pin {
		return &ChangedHostError{Address: address, Shown: shown, Wanted: []string{h.pin + " (--tunnel-host-key)"},
			hint: "if its key has changed, ask whoever runs it for the new fingerprint"}
	}
	return nil
}

func explainHostKey(address string, key ssh.PublicKey, err error) error {
	var revoked *knownhosts.RevokedError
	if errors.As(err, &revoked) {
		return fmt.Errorf("%s shows the host key %s, which %s:%d revokes", address, ssh.FingerprintSHA256(key), revoked.Revoked.Filename, revoked.Revoked.Line)
	}
	var unfit *knownhosts.KeyError
	if !errors.As(err, &unfit) {
		return err
	}
	if len(unfit.Want) == 0 {
		return &UnknownHostError{Address: address, Fingerprint: ssh.FingerprintSHA256(key), Type: key.Type(), key: key}
	}
	changed := &ChangedHostError{Address: address, Shown: ssh.FingerprintSHA256(key),
		hint: fmt.Sprintf("if its key has changed, forget the old one: ssh-keygen -R '%s' -f %s", knownhosts.Normalize(address), unfit.Want[0].Filename)}
	for _, want := range unfit.Want {
		changed.Wanted = append(changed.Wanted, fmt.Sprintf("%s (%s:%d)", ssh.FingerprintSHA256(want.Key), want.Filename, want.Line))
	}
	return changed
}

// knownKeys asks for a key that nobody has, as the callback's error is the one
// way to learn which keys are known.
func knownKeys(known ssh.HostKeyCallback, server string) []knownhosts.KnownKey {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil
	}
	probe, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil
	}
	var unfit *knownhosts.KeyError
	if !errors.As(known(server, address(server), probe), &unfit) {
		return nil
	}
	return unfit.Want
}

// orderAlgorithms puts the algorithms of known keys first, so that a server
// with several keys shows the one that can be checked, and certificates only
// where an authority is known that could have signed one.
func orderAlgorithms(known []knownhosts.KnownKey) []string {
	var order, rest []string
	var types []string
	authority := false
	for _, k := range known {
		if isAuthority(k) {
			authority = true
		} else {
			types = append(types, k.Key.Type())
		}
	}
	all := ssh.SupportedAlgorithms().HostKeys
	slices.SortStableFunc(all, func(a, b string) int { return preference(a) - preference(b) })
	for _, algorithm := range all {
		switch certificate := strings.Contains(algorithm, "-cert-"); {
		case certificate && authority:
			order = append(order, algorithm)
		case certificate:
		case slices.Contains(types, keyType(algorithm)):
			order = append(order, algorithm)
		default:
			rest = append(rest, algorithm)
		}
	}
	return append(order, rest...)
}

// preference orders algorithms as OpenSSH's client does, so that an unknown
// server shows the same key to both.
func preference(algorithm string) int {
	switch {
	case strings.Contains(algorithm, "ed25519"):
		return 0
	case strings.Contains(algorithm, "ecdsa"):
		return 1
	default:
		return 2
	}
}

// keyType is the type of the keys that sign with an algorithm.
func keyType(algorithm string) string {
	if algorithm == ssh.KeyAlgoRSASHA256 || algorithm == ssh.KeyAlgoRSASHA512 {
		return ssh.KeyAlgoRSA
	}
	return algorithm
}

// isAuthority looks at the line itself: the library doesn't tell.
func isAuthority(k knownhosts.KnownKey) bool {
	file, err := os.Open(k.Filename)
	if err != nil {
		return false
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		if n == k.Line {
			return strings.HasPrefix(strings.TrimSpace(lines.Text()), "@cert-authority")
		}
	}
	return false
}

// families are the algorithms again, in groups of one type of key: a pinned
// fingerprint doesn't tell its type, and a server shows one key at a time.
func families(algorithms []string) [][]string {
	var groups [][]string
	for _, algorithm := range algorithms {
		i := slices.IndexFunc(groups, func(g []string) bool { return keyType(g[0]) == keyType(algorithm) })
		if i < 0 {
			groups = append(groups, nil)
			i = len(groups) - 1
		}
		groups[i] = append(groups[i], algorithm)
	}
	return groups
}

// remember writes an accepted host key where ssh looks for it too.
func remember(file, address string, key ssh.PublicKey) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(knownhosts.Line([]string{knownhosts.Normalize(address)}, key) + "\n"); err != nil {
		return err
	}
	return f.Close()
}
