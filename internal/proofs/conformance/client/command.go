package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// processes does the scenario with the command: each step is a process, and
// they share nothing but a file store.
func processes(ctx context.Context, command, server string, g given) error {
	if !strings.HasPrefix(g.Scenario, "auth/") || extensions[g.Scenario] != nil {
		return errNotCarried
	}
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	a := &astravue{
		command: command,
		env: append(os.Environ(),
			"HOME="+dir, "XDG_CONFIG_HOME="+dir,
			"ASTRAVUE_MCP_SERVER="+server,
			"ASTRAVUE_MCP_STORE=file",
			"ASTRAVUE_MCP_IDENTITY_FILE="+file("identity", identity.String()),
			"BROWSER="+self+" open",
		),
		// What a user passes who was told a client ID, or not.
		registration: []string{"--client-metadata-url", metadataURL},
	}
	if g.ClientID != "" {
		a.registration = []string{"--client-id", g.ClientID}
		if g.ClientSecret != "" {
			a.registration = append(a.registration, "--client-secret-file", file("secret", g.ClientSecret))
		}
	}
	if err != nil {
		return err
	}
	for _, step := range [][]string{{"login"}, {"tools"}, {"call", "test-tool"}} {
		if err := a.do(ctx, step...); err != nil {
			return err
		}
	}
	return nil
}

type astravue struct {
	command           string
	env, registration []string
}

// do takes a step. Where the command says that this needs a sign-in, it signs
// in as it was told and takes the step again.
func (a *astravue) do(ctx context.Context, step ...string) error {
	if step[0] == "login" {
		return a.process(ctx, append(step, a.registration...)...)
	}
	err := a.process(ctx, step...)
	needed := new(processError)
	if !errors.As(err, &needed) || needed.Code != "login_required" {
		return err
	}
	login := []string{"login"}
	if len(needed.Scopes) > 0 {
		login = append(login, "--scope", strings.Join(needed.Scopes, " "))
	}
	if err := a.do(ctx, login...); err != nil {
		return err
	}
	return a.process(ctx, step...)
}

// A processError is how a process of the command ended.
type processError struct {
	Args    []string `json:"-"`
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Scopes  []string `json:"scopes"`
}

func (e *processError) Error() string {
	return fmt.Sprintf("astravue-mcp %s: %s: %s", strings.Join(e.Args, " "), e.Code, e.Message)
}

func (a *astravue) process(ctx context.Context, args ...string) error {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, a.command, append(args, "--output", "json")...)
	cmd.Env, cmd.Stderr = a.env, &stderr
	err := cmd.Run()
	if err == nil {
		return nil
	}
	fmt.Fprintf(os.Stderr, "%s\n%s", strings.Join(args, " "), stderr.Bytes())
	for line := range bytes.Lines(stderr.Bytes()) {
		var document struct{ Error *processError }
		if json.Unmarshal(line, &document) == nil && document.Error != nil {
			document.Error.Args = args
			return document.Error
		}
	}
	return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
}
