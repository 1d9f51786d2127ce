package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"oidc-publisher/discovery/verify"
	"oidc-publisher/federation/explain"
	"oidc-publisher/internal/cli"
)

// renderVerify writes a report as text, json or junit. Remote servers wrote
// parts of it, so control characters come out escaped in every format. Text and
// JSON end with the settings that make services trust the token.
func renderVerify(w io.Writer, report verify.Report, format string, colour bool, trust ...explain.Trust) error {
	switch format {
	case "json":
		return cli.PrintJSON(w, verifyJSON(report, trust))
	case "junit":
		return printJUnit(w, report)
	default:
		_, err := io.WriteString(w, verifyText(report, colour)+trustText(trust))
		return err
	}
}

// verifyText lists the failures first, and only counts the checks that were
// blocked by them.
func verifyText(report verify.Report, colour bool) string {
	checks := slices.DeleteFunc(slices.Clone(report.Checks), func(c verify.Check) bool { return c.Blocked })
	blocked := len(report.Checks) - len(checks)
	order := []verify.Status{verify.Fail, verify.Error, verify.Warn, verify.Pass, verify.Skip}
	slices.SortStableFunc(checks, func(a, b verify.Check) int { return slices.Index(order, a.Status) - slices.Index(order, b.Status) })
	width := 0
	for _, c := range checks {
		width = max(width, utf8.RuneCountInString(c.Title))
	}
	var out strings.Builder
	fmt.Fprintf(&out, "issuer %s\n\n", cli.Printable(report.Issuer))
	for _, c := range checks {
		line := fmt.Sprintf("%s  %-*s  %s", statusWord(c.Status, colour), width, c.Title, cli.Printable(c.Evidence))
		fmt.Fprintln(&out, strings.TrimRight(line, " "))
		if c.Status == verify.Warn || c.Status == verify.Fail || c.Status == verify.Error {
			fmt.Fprintf(&out, "         cause: %s\n         cure:  %s\n", cli.Printable(c.Cause), cli.Printable(c.Cure))
		}
	}
	if blocked > 0 {
		fmt.Fprintf(&out, "%s  %d checks could not be run because of the above\n", statusWord(verify.Skip, colour), blocked)
	}
	fmt.Fprintf(&out, "\n%s  %s\n", statusWord(report.Verdict, colour), verdictSentence(report))
	return out.String()
}

func statusWord(s verify.Status, colour bool) string {
	word := fmt.Sprintf("%-5s", strings.ToUpper(string(s)))
	code := map[verify.Status]string{verify.Pass: "32", verify.Warn: "33", verify.Fail: "31", verify.Error: "35", verify.Skip: "2"}[s]
	if !colour || code == "" {
		return word
	}
	return "\x1b[" + code + "m" + word + "\x1b[0m"
}

func verdictSentence(report verify.Report) string {
	n := countStatuses(report)
	counts := fmt.Sprintf("%d passed, %d warned, %d failed, %d could not be checked, %d skipped",
		n[verify.Pass], n[verify.Warn], n[verify.Fail], n[verify.Error], n[verify.Skip])
	return map[verify.Status]string{
		verify.Fail:  "relying parties will refuse tokens of this issuer: ",
		verify.Error: "the issuer could not be checked: ",
		verify.Pass:  "the issuer is fit for relying parties: ",
	}[report.Verdict] + counts
}

func countStatuses(report verify.Report) map[verify.Status]int {
	n := map[verify.Status]int{}
	for _, c := range report.Checks {
		n[c.Status]++
	}
	return n
}

// The JSON form of a verification: a contract with scripts.
type verificationJSON struct {
	verify.Report
	// Trust is set with a token and --for cloudsmith or gcp.
	Trust []trustJSON `json:"trust,omitempty"`
}

type trustJSON struct {
	Service  string            `json:"service"`
	Values   map[string]string `json:"values"`
	Commands []string          `json:"commands,omitempty"`
}

func verifyJSON(report verify.Report, trust []explain.Trust) verificationJSON {
	report.Checks = append([]verify.Check{}, report.Checks...) // [] and not null
	out := verificationJSON{Report: report}
	for _, t := range trust {
		values := map[string]string{}
		for _, v := range t.Values {
			values[v.Name] = v.Value
		}
		out.Trust = append(out.Trust, trustJSON{string(t.Service), values, t.Commands})
	}
	return out
}

func trustText(trust []explain.Trust) string {
	var out strings.Builder
	for _, t := range trust {
		fmt.Fprint(&out, "\nto trust this token, ")
		for _, line := range t.Lines() {
			fmt.Fprintln(&out, cli.Printable(line))
		}
	}
	return out.String()
}

// The JUnit form: one suite, one case per check. JUnit has no
// warnings, so a warning is a passed case with output.
type junitSuites struct {
	XMLName xml.Name   `xml:"testsuites"`
	Suite   junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string       `xml:"classname,attr"`
	Name    string       `xml:"name,attr"`
	Failure *junitDetail `xml:"failure"`
	Error   *junitDetail `xml:"error"`
	Skipped *junitDetail `xml:"skipped"`
	Output  string       `xml:"system-out,omitempty"`
}

type junitDetail struct {
	Type    string `xml:"type,attr,omitempty"`
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func printJUnit(w io.Writer, report verify.Report) error {
	n := countStatuses(report)
	suite := junitSuite{
		Name: "verify " + cli.Printable(report.Issuer), Tests: len(report.Checks),
		Failures: n[verify.Fail], Errors: n[verify.Error], Skipped: n[verify.Skip],
	}
	for _, c := range report.Checks {
		suite.Cases = append(suite.Cases, junitCaseOf(c))
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(junitSuites{Suite: suite}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func junitCaseOf(c verify.Check) junitCase {
	out := junitCase{Class: cli.Name + ".verify", Name: c.ID + ": " + c.Title}
	evidence, cause, cure := cli.Printable(c.Evidence), cli.Printable(c.Cause), cli.Printable(c.Cure)
	story := fmt.Sprintf("evidence: %s\ncause: %s\ncure: %s", evidence, cause, cure)
	switch c.Status {
	case verify.Fail:
		out.Failure = &junitDetail{Type: c.ID, Message: cause, Text: story}
	case verify.Error:
		out.Error = &junitDetail{Type: c.ID, Message: cause, Text: story}
	case verify.Skip:
		out.Skipped = &junitDetail{Message: evidence}
	case verify.Warn:
		out.Output = "warning\n" + story
	default:
		out.Output = evidence
	}
	return out
}
