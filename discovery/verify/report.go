package verify

import (
	"fmt"
	"strings"
	"time"
)

// Status is the outcome of one check, and of a whole report.
type Status string

const (
	// Pass: as it should be.
	Pass Status = "pass"
	// Warn: works, but not always or not with every relying party.
	Warn Status = "warn"
	// Fail: checked, and wrong.
	Fail Status = "fail"
	// Error: could not be checked.
	Error Status = "error"
	// Skip: not checked, because an earlier check failed or because the input
	// for it was not given.
	Skip Status = "skip"
)

// Check is one check and its result.
type Check struct {
	// ID is stable kebab-case for machines: scripts may depend on it.
	ID string
	// Title is the check in words.
	Title  string
	Status Status
	// Evidence is what was seen. It never holds a token or a remote body.
	Evidence string
	// Blocked is set with Skip where the check needs what an earlier one could
	// not get.
	Blocked bool
	// Cause and Cure are set with Warn, Fail and Error: what is wrong, and
	// what to do about it.
	Cause, Cure string
}

// Report is the result of one Run, its checks in the order in which a relying
// party meets them.
type Report struct {
	Issuer string
	Checks []Check
	// Verdict is Fail if any check failed (the issuer is known to be
	// unfit: exit code 3), else Error if any could not be made (exit code 1),
	// else Pass (0). A failure outranks an error because no further checking
	// can turn it into a pass; warnings and skipped checks do not count.
	Verdict Status
	// CertificateExpiry is when the first certificate of the chains seen
	// expires, zero where none was seen.
	CertificateExpiry time.Time
}

func newReport(issuer string, checks []Check) Report {
	r := Report{Issuer: issuer, Checks: checks, Verdict: Pass}
	for _, c := range checks {
		switch {
		case c.Status == Fail:
			r.Verdict = Fail
		case c.Status == Error && r.Verdict == Pass:
			r.Verdict = Error
		}
	}
	return r
}

// finding is the result of a check function; its table adds ID and title.
type finding struct {
	status                Status
	evidence, cause, cure string
	blocked               bool
}

func (f finding) check(id, title string) Check {
	return Check{ID: id, Title: title, Status: f.status, Evidence: f.evidence, Blocked: f.blocked, Cause: f.cause, Cure: f.cure}
}

func pass(format string, args ...any) finding {
	return finding{status: Pass, evidence: fmt.Sprintf(format, args...)}
}

func skip(reason string) finding { return finding{status: Skip, evidence: reason} }

// blocked skips a check that needs what an earlier one could not get.
func blocked(reason string) finding {
	return finding{status: Skip, evidence: reason, blocked: true}
}

func warn(evidence, cause, cure string) finding {
	return finding{status: Warn, evidence: evidence, cause: cause, cure: cure}
}

func fail(evidence, cause, cure string) finding {
	return finding{status: Fail, evidence: evidence, cause: cause, cure: cure}
}

func unchecked(evidence, cause, cure string) finding {
	return finding{status: Error, evidence: evidence, cause: cause, cure: cure}
}

// softened turns a failure into a warning.
func (f finding) softened() finding {
	if f.status == Fail {
		f.status = Warn
	}
	return f
}

// quoted lists foreign strings: quoted, clipped, and at most ten.
func quoted(list []string) string {
	const most = 10
	var out []string
	for i, s := range list {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(list)-most))
			break
		}
		out = append(out, fmt.Sprintf("%q", clip(s)))
	}
	return strings.Join(out, ", ")
}
