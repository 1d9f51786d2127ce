package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const (
	// keyLimit bounds a key file, in bytes.
	keyLimit = 64 << 10
	// agentTimeout bounds a conversation with the agent, which may ask a person.
	agentTimeout = time.Minute
)

// identity is by what a user logs in: the keys, and what to call them.
type identity struct {
	signers []ssh.Signer
	// tried tells a person what was there to be tried.
	tried string
	close func()
}

// newIdentity collects the keys: a named file's, or one of the agent where the
// file is a public key; else all of the agent's and those in the home's .ssh
// that need no passphrase, as ssh does. None at all is no error: the tunnel
// services let in who has no key.
func newIdentity(ctx context.Context, c Config) (identity, error) {
	id := identity{close: func() {}}
	held, closeAgent, agentErr := agentSigners(ctx, c.AgentSocket)
	if c.KeyFile == "" {
		id.signers, id.close = held, closeAgent
		found := []string{fmt.Sprintf("%d keys of the agent", len(held))}
		if agentErr != nil {
			found[0] = "no agent"
		}
		for _, file := range c.DefaultKeys {
			if signer, err := readKey(file); err == nil {
				id.signers, found = append(id.signers, signer), append(found, file)
			}
		}
		id.tried = strings.Join(found, ", ")
		return id, nil
	}
	signer, err := readKey(c.KeyFile)
	var public *publicKeyError
	if errors.As(err, &public) {
		for _, s := range held {
			if string(s.PublicKey().Marshal()) == string(public.key.Marshal()) {
				id.signers, id.tried, id.close = []ssh.Signer{s}, "the agent's key of "+c.KeyFile, closeAgent
				return id, nil
			}
		}
		closeAgent()
		return id, fmt.Errorf("--tunnel-key %s is a public key, and the agent does not hold its private one: ssh-add it", c.KeyFile)
	}
	closeAgent()
	if err != nil {
		return id, fmt.Errorf("--tunnel-key: %w", err)
	}
	id.signers, id.tried = []ssh.Signer{signer}, c.KeyFile
	return id, nil
}

// methods are tried in this order. Services that let in anybody ask for a
// password or a confirmation all the same, and take an empty one.
func (id identity) methods(said func(text string)) []ssh.AuthMethod {
	var methods []ssh.AuthMethod
	if len(id.signers) > 0 {
		methods = append(methods, ssh.PublicKeys(id.signers...))
	}
	return append(methods,
		ssh.KeyboardInteractive(func(_, instruction string, questions []string, _ []bool) ([]string, error) {
			said(instruction + "\n")
			return make([]string, len(questions)), nil
		}),
		ssh.Password(""))
}

// publicKeyError is a file that holds the public half.
type publicKeyError struct{ key ssh.PublicKey }

func (*publicKeyError) Error() string { return "it is a public key" }

// readKey reads a private key that needs no passphrase.
func readKey(path string) (ssh.Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > keyLimit {
		return nil, fmt.Errorf("%s is no key file", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if key, _, _, _, err := ssh.ParseAuthorizedKey(data); err == nil {
		return nil, &publicKeyError{key}
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 %s", path, mode, path)
	}
	signer, err := ssh.ParsePrivateKey(data)
	var encrypted *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &encrypted):
		return nil, fmt.Errorf("%s needs a passphrase: give the key to the agent (ssh-add %s) and name its public half, %s.pub, or none", path, path, path)
	case err != nil: // the parser's error may quote the file
		return nil, fmt.Errorf("%s is not a private key that this program can read (OpenSSH or PEM)", path)
	}
	return signer, nil
}

// agentSigners are the keys that an agent holds. They sign as long as the
// connection to it, which closeAgent ends.
func agentSigners(ctx context.Context, socket string) (signers []ssh.Signer, closeAgent func(), err error) {
	if socket == "" {
		return nil, func() {}, fs.ErrNotExist
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, func() {}, err
	}
	if err := conn.SetDeadline(time.Now().Add(agentTimeout)); err != nil {
		return nil, func() {}, errors.Join(err, conn.Close())
	}
	signers, err = agent.NewClient(conn).Signers()
	return signers, func() { _ = conn.Close() }, err
}

// DefaultKeys are the files in which ssh looks for a key of its own accord.
func DefaultKeys(home string) []string {
	if home == "" {
		return nil
	}
	var files []string
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		files = append(files, filepath.Join(home, ".ssh", name))
	}
	return files
}

// DefaultKnownHosts are the files in which ssh looks for host keys.
func DefaultKnownHosts(home string) []string {
	const system = "/etc/ssh/ssh_known_hosts"
	if home == "" {
		return []string{system}
	}
	return []string{filepath.Join(home, ".ssh", "known_hosts"), system}
}
