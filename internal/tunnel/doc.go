// Package tunnel forwards a port of an SSH server to a local address with the
// ssh program, as `ssh -R` does. It uses the user's own configuration, agents,
// certificates, jump hosts and known hosts. The server can be any sshd, or a
// public tunnel service that speaks SSH: such services print the public URL
// into the session, and this package reads it there.
//
// ssh is restarted when it ends.
package tunnel
