package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

const (
	categorySource = "Source"
	categoryOutput = "Output"
)

// env is the environment variable of a flag.
func env(flag string) []string {
	return []string{"OIDC_PUBLISHER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

func stringFlag(name, value, usage string) *cli.StringFlag {
	return &cli.StringFlag{Name: name, Value: value, Usage: usage, EnvVars: env(name)}
}

func boolFlag(name, usage string) *cli.BoolFlag {
	return &cli.BoolFlag{Name: name, Usage: usage, EnvVars: env(name)}
}

func durationFlag(name string, value time.Duration, usage string) *cli.DurationFlag {
	return &cli.DurationFlag{Name: name, Value: value, Usage: usage, EnvVars: env(name)}
}

// listFlag may be given several times; read it with list.
func listFlag(name, usage string) *cli.StringSliceFlag {
	return &cli.StringSliceFlag{Name: name, Usage: usage, EnvVars: env(name)}
}

// list returns the values of a listFlag. On the command line each occurrence
// is one value, commas and all; in the environment commas separate values.
func list(c *cli.Context, name string) []string {
	values := c.StringSlice(name)
	if fromEnv := os.Getenv(env(name)[0]); len(values) == 1 && values[0] == fromEnv {
		values = strings.Split(fromEnv, ",")
	}
	return values
}

func timeoutFlag() *cli.DurationFlag {
	return durationFlag("timeout", 30*time.Second, "give up after `DURATION`, all steps together")
}

func checkTimeout(c *cli.Context) error {
	if c.Duration("timeout") <= 0 {
		return usagef("--timeout must be positive, like 30s")
	}
	return nil
}

// overtime adds to the error of a step that took too long what allows more.
func overtime(err error, limit time.Duration) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w (--timeout is %v, all steps together)", err, limit)
}
