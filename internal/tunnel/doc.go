// Package tunnel forwards a port of an SSH server to a local address with the
// ssh program, as `ssh -R` does. Its configuration, agents, certificates, jump
// hosts and known hosts are those of the user. One's own sshd will do, and so
// will the public tunnel services that speak SSH: they print the public URL
// into the session, which is read.
//
// ssh is restarted when it ends.
package tunnel
