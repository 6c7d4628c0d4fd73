package vmtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// modulePaths returns the files of the modules in the kernel's tree, each after
// what it depends on, and nothing else. What is built in needs no file.
func (k *Kernel) modulePaths(names []string) ([]string, error) {
	dep, err := k.read(k.modules("modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := k.read(k.modules("modules.builtin"))
	if err != nil {
		return nil, err
	}
	paths, err := resolveModules(names, string(dep), string(builtin))
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.Name, err)
	}
	return paths, nil
}

// resolveModules does this from the text of modules.dep, whose lines are
// "PATH: PATH...", and modules.builtin, one path a line (depmod(8)).
func resolveModules(names []string, dep, builtin string) ([]string, error) {
	needs, file := map[string][]string{}, map[string]string{}
	for line := range strings.Lines(dep) {
		p, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if ok {
			needs[p], file[moduleName(p)] = strings.Fields(rest), p
		}
	}
	in := map[string]bool{}
	for line := range strings.Lines(builtin) {
		in[moduleName(strings.TrimSpace(line))] = true
	}
	var order []string
	var visit func(p string, above []string) error
	visit = func(p string, above []string) error {
		if slices.Contains(order, p) {
			return nil
		}
		if slices.Contains(above, p) {
			return fmt.Errorf("module %s: depends on itself", p)
		}
		for _, n := range needs[p] {
			if err := visit(n, append(slices.Clip(above), p)); err != nil {
				return err
			}
		}
		order = append(order, p)
		return nil
	}
	for _, name := range names {
		p, ok := file[moduleName(name)]
		if !ok {
			if in[moduleName(name)] {
				continue
			}
			return nil, fmt.Errorf("module %s: not in this kernel", name)
		}
		if err := visit(p, nil); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName returns the name of a module's file as lsmod shows it.
func moduleName(p string) string {
	name, _, _ := strings.Cut(path.Base(p), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
