package app

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"
)

// KongOptions are what every command line of Lake is parsed with: LAKE_* for
// each flag, a YAML file by --config, and secrets from files by *_FILE.
func KongOptions(name, description string) []kong.Option {
	return []kong.Option{
		kong.Name(name),
		kong.Description(description),
		kong.DefaultEnvars("LAKE"),
		kong.Configuration(loadYAML),
		kong.Resolvers(secretFiles{}),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	}
}

// envSet tells whether one of a flag's environment variables is set. kong asks
// resolvers before the environment, so a resolver has to stand back itself.
func envSet(flag *kong.Flag) bool {
	return slices.ContainsFunc(flag.Envs, func(e string) bool { _, ok := os.LookupEnv(e); return ok })
}

// secretFiles resolves a flag from the file that NAME_FILE names, for each of
// its environment variables NAME: how orchestrators hand out secrets.
type secretFiles struct{}

func (secretFiles) Validate(*kong.Application) error { return nil }

func (secretFiles) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if envSet(flag) {
		return nil, nil
	}
	for _, e := range flag.Envs {
		if path := os.Getenv(e + "_FILE"); path != "" {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("%s_FILE: %w", e, err)
			}
			return strings.TrimSpace(string(b)), nil
		}
	}
	return nil, nil
}

// yamlFile resolves flags from a file. Keys are flag names; a nested mapping
// joins its keys with dashes. Unknown keys are errors.
type yamlFile map[string]any

func loadYAML(r io.Reader) (kong.Resolver, error) {
	var tree map[string]any
	if err := yaml.NewDecoder(r).Decode(&tree); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	f := yamlFile{}
	f.flatten("", tree)
	return f, nil
}

func (f yamlFile) flatten(prefix string, tree map[string]any) {
	for k, v := range tree {
		if sub, ok := v.(map[string]any); ok {
			f.flatten(prefix+k+"-", sub)
			continue
		}
		f[prefix+k] = v
	}
}

func (f yamlFile) Validate(app *kong.Application) error {
	known := map[string]bool{}
	var walk func(n *kong.Node)
	walk = func(n *kong.Node) {
		for _, flag := range n.Flags {
			known[flag.Name] = true
		}
		for _, c := range n.Children {
			walk(c)
		}
	}
	walk(app.Node)
	for k := range f {
		if !known[k] {
			return fmt.Errorf("configuration file: unknown key %q; the keys are the flags that --help lists", k)
		}
	}
	return nil
}

func (f yamlFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	v, ok := f[flag.Name]
	if !ok || v == nil || envSet(flag) {
		return nil, nil
	}
	for _, e := range flag.Envs {
		if os.Getenv(e+"_FILE") != "" {
			return nil, nil
		}
	}
	if list, ok := v.([]any); ok {
		parts := make([]string, len(list))
		for i, e := range list {
			parts[i] = fmt.Sprint(e)
		}
		return strings.Join(parts, ","), nil
	}
	return fmt.Sprint(v), nil
}
