package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"oidc-publisher/internal/cli"
	"oidc-publisher/publish"
)

// The JSON form of a report: a contract with scripts.
type reportJSON struct {
	Issuer   string       `json:"issuer"`
	Changed  bool         `json:"changed"`
	DryRun   bool         `json:"dry_run"`
	Verified *bool        `json:"verified"` // null if the issuer was not read back
	Targets  []targetJSON `json:"targets"`
	Warnings []string     `json:"warnings"`
	Error    string       `json:"error,omitempty"`
}

type targetJSON struct {
	Target  string   `json:"target"`
	Written []string `json:"written"`
	Keys    keysJSON `json:"keys"`
	// GraceEnds has the time at which each retired key will be dropped.
	GraceEnds map[string]time.Time `json:"grace_ends,omitempty"`
	Refused   bool                 `json:"refused,omitempty"`
	Error     string               `json:"error,omitempty"`
}

type keysJSON struct {
	Published []string `json:"published"`
	Added     []string `json:"added"`
	Retired   []string `json:"retired"`
	Dropped   []string `json:"dropped"`
}

func publishJSON(report publish.Report, dryRun bool) reportJSON {
	out := reportJSON{Issuer: string(report.Issuer), Changed: report.Changed(), DryRun: dryRun, Warnings: orEmpty(warnings(report))}
	if report.Proof.Read {
		verified := report.Proof.Err == nil && report.Proof.FreshIn == 0
		out.Verified = &verified
	}
	if report.Proof.Failed() {
		out.Error = report.Proof.Err.Error()
	}
	for _, t := range report.Targets {
		plan := t.Plan
		target := targetJSON{Target: t.Target.Name, Written: orEmpty(t.Written)}
		if t.Err != nil { // the plan was not carried out, or only partly
			plan = publish.Plan{}
			target.Refused, target.Error = errors.Is(t.Err, publish.ErrRefused), t.Err.Error()
		}
		changes := plan.Changes
		target.Keys = keysJSON{orEmpty(changes.Published), orEmpty(changes.Added), orEmpty(changes.Retired), orEmpty(changes.Dropped)}
		target.GraceEnds = plan.GraceEnds
		out.Targets = append(out.Targets, target)
	}
	return out
}

// printFailure prints the error of a run without a report as JSON, if that was
// asked for.
func printFailure(w io.Writer, format string, dryRun bool, err error) error {
	if format != "json" {
		return err
	}
	return errors.Join(err, cli.PrintJSON(w, reportJSON{DryRun: dryRun, Targets: []targetJSON{}, Warnings: []string{}, Error: err.Error()}))
}

// orEmpty makes an empty list print as [] and not as null.
func orEmpty(values []string) []string { return append([]string{}, values...) }

// printReport shows each target's keys as a diff, and what was written.
func printReport(w io.Writer, report publish.Report, dryRun bool) error {
	var out strings.Builder
	fmt.Fprintf(&out, "issuer %s\n", cli.Printable(string(report.Issuer)))
	for _, t := range report.Targets {
		if t.Err != nil {
			fmt.Fprintf(&out, "%s: not published\n", t.Target.Name)
			continue
		}
		verdict := "wrote "
		if dryRun {
			verdict = "would write "
		}
		if len(t.Written) == 0 {
			verdict = "up to date, nothing to write"
		}
		fmt.Fprintf(&out, "%s: %s%s\n", t.Target.Name, verdict, strings.Join(t.Written, ", "))
		printKeys(&out, t.Plan)
	}
	if report.Proof.Read && report.Proof.Err == nil && report.Proof.FreshIn == 0 {
		fmt.Fprintf(&out, "the public issuer serves these documents\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func printKeys(out *strings.Builder, plan publish.Plan) {
	for _, id := range plan.Changes.Published {
		mark, note := "=", ""
		if slices.Contains(plan.Changes.Added, id) {
			mark, note = "+", "  added"
		}
		if ends, retired := plan.GraceEnds[id]; retired {
			mark, note = "~", "  retired, public until "+ends.Format(time.RFC3339)
		}
		fmt.Fprintf(out, "  %s %s%s\n", mark, cli.Printable(id), note)
	}
	for _, id := range plan.Changes.Dropped {
		fmt.Fprintf(out, "  - %s  dropped\n", cli.Printable(id))
	}
}

// outcome combines the targets' errors into one.
func outcome(stderr io.Writer, report publish.Report) error {
	var failed, refused int
	for _, t := range report.Targets {
		switch {
		case errors.Is(t.Err, publish.ErrRefused):
			refused++
			cli.Say(stderr, "refused", t.Target.Name+": "+t.Err.Error())
		case t.Err != nil:
			failed++
			cli.Say(stderr, "error", t.Target.Name+": "+t.Err.Error())
		}
	}
	switch {
	case failed+refused > 0 && failed+refused < len(report.Targets):
		return &cli.ExitError{Code: cli.ExitPartly}
	case failed > 0:
		return &cli.ExitError{Code: cli.ExitFailed}
	case refused > 0:
		return &cli.ExitError{Code: cli.ExitRefused}
	case report.Proof.Failed():
		return fmt.Errorf("published, but the public issuer does not serve it: %w", report.Proof.Err)
	}
	return nil
}

// warnings returns each warning once, however many targets share it.
func warnings(report publish.Report) []string {
	all := slices.Clone(report.Warnings)
	for _, t := range report.Targets {
		all = append(all, t.Plan.Warnings...)
	}
	switch proof := report.Proof; {
	case proof.FreshIn > 0:
		all = append(all, fmt.Sprintf("a cache in front of the issuer still serves an older copy, for at most %v", proof.FreshIn.Round(time.Second)))
	case proof.Err != nil && !proof.Expected:
		all = append(all, fmt.Sprintf("the issuer does not serve these documents yet: %v", proof.Err))
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(warning string) bool {
		again := seen[warning]
		seen[warning] = true
		return again
	})
}
