// Package service holds what every long-running command needs: the status
// server (/livez, /readyz, /metrics), the registry of metrics, the log of
// failures, and signals. The waits between attempts are in package retry below
// it.
package service
