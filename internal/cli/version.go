package cli

import (
	"fmt"
	"runtime"
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
			revision := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, setting := range info.Settings {
					if setting.Key == "vcs.revision" {
						revision = setting.Value
					}
				}
			}
			if c.String("output") == "json" {
				return PrintJSON(c.App.Writer, map[string]string{"version": Version(), "revision": revision, "go": runtime.Version()})
			}
			_, err := fmt.Fprintf(c.App.Writer, "%s %s (revision %s, %s)\n", Name, Version(), revision, runtime.Version())
			return err
		},
	}
}
