package kube

import "time"

// SetNow replaces the clock by which tokens are due.
func (s *Source) SetNow(now func() time.Time) { s.now = now }
