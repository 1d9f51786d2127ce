package cli

import (
	"fmt"
	"runtime/debug"
)

// Version is the version of the program, from its build information.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

func versionCommand() *Command {
	return &Command{
		Name:  "version",
		Usage: "print the version of this program",
		Flags: []Flag{Output("text", "json")},
		Action: func(c *Context) error {
			if err := CheckArgs(c); err != nil {
				return err
			}
			format, err := OutputFormat(c, "text", "json")
			if err != nil {
				return err
			}
			goVersion, revision := buildInfo()
			if format == "json" {
				return PrintJSON(c.App.Writer, map[string]string{"version": Version(), "revision": revision, "go": goVersion})
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s %s (revision %s, %s)\n", Name, Version(), revision, goVersion)
			return err
		},
	}
}

func buildInfo() (goVersion, revision string) {
	revision = "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", revision
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			revision = setting.Value
		}
	}
	return info.GoVersion, revision
}
