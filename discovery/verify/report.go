package verify

import (
	"fmt"
	"strings"
	"time"

	"oidc-publisher/internal/httpx"
)

// Status is the outcome of one check, and of a whole report.
type Status string

const (
	// Pass: correct.
	Pass Status = "pass"
	// Warn: works, but not always, or not with every relying party.
	Warn Status = "warn"
	// Fail: checked, and wrong.
	Fail Status = "fail"
	// Error: could not be checked.
	Error Status = "error"
	// Skip: not checked, because an earlier check failed or because the input
	// for it was not given.
	Skip Status = "skip"
)

// Check is one check and its result. Its JSON form is a contract with scripts.
type Check struct {
	// ID is stable kebab-case for machines: scripts may depend on it.
	ID string `json:"id"`
	// Title describes the check in words.
	Title  string `json:"title"`
	Status Status `json:"status"`
	// Evidence is what the check found. It never contains a token or a remote
	// body.
	Evidence string `json:"evidence"`
	// Blocked is set with Skip where the check needs what an earlier one could
	// not get.
	Blocked bool `json:"-"`
	// Cause and Cure are set with Warn, Fail and Error: what is wrong, and
	// what to do about it.
	Cause string `json:"cause"`
	Cure  string `json:"cure"`
}

// Report is the result of one Run, its checks in the order in which a relying
// party meets them.
type Report struct {
	Issuer string `json:"issuer"`
	// Verdict is Fail if any check failed (the issuer is known to be
	// unfit: exit code 3), else Error if any could not be made (exit code 1),
	// else Pass (0). A failure outranks an error because no further checking
	// can turn it into a pass; warnings and skipped checks do not count.
	Verdict Status  `json:"verdict"`
	Checks  []Check `json:"checks"`
	// CertificateExpiry is when the first certificate of the chains seen
	// expires, zero where none was seen.
	CertificateExpiry time.Time `json:"-"`
}

// row is a line of a table of checks.
type row struct {
	id, title string
	// missing is what the check needs and does not have, "" for nothing. Its
	// result then means nothing.
	missing string
	result  Check
}

func rows(table ...row) []Check {
	checks := make([]Check, len(table))
	for i, r := range table {
		if r.missing != "" {
			r.result = blocked(r.missing)
		}
		r.result.ID, r.result.Title = r.id, r.title
		checks[i] = r.result
	}
	return checks
}

// unless returns what is missing, "" if it is there.
func unless(there bool, missing string) string {
	if there {
		return ""
	}
	return missing
}

func pass(format string, args ...any) Check {
	return Check{Status: Pass, Evidence: fmt.Sprintf(format, args...)}
}

func skip(reason string) Check { return Check{Status: Skip, Evidence: reason} }

// blocked skips a check that needs what an earlier one could not get.
func blocked(reason string) Check { return Check{Status: Skip, Evidence: reason, Blocked: true} }

func warn(evidence, cause, cure string) Check {
	return Check{Status: Warn, Evidence: evidence, Cause: cause, Cure: cure}
}

func fail(evidence, cause, cure string) Check {
	return Check{Status: Fail, Evidence: evidence, Cause: cause, Cure: cure}
}

func unchecked(evidence, cause, cure string) Check {
	return Check{Status: Error, Evidence: evidence, Cause: cause, Cure: cure}
}

// faults lists the parts of a joined error, at most ten, one after another.
func faults(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		lines[i] = httpx.Clip(line)
	}
	return httpx.Few(lines, "; ")
}
