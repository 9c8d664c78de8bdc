package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate"
	"github.com/headgate/headgate/access"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/store/sqlite"
)

func newTokenCommand(a *app) *cobra.Command {
	return group("token", "Make, list and revoke credentials, in the data folder of a stopped server",
		newTokenCreateCommand(a), newTokenListCommand(a), newTokenRevokeCommand(a))
}

func newTokenCreateCommand(a *app) *cobra.Command {
	var data, name, person, role string
	var tenants []string
	var expires time.Duration
	c := &cobra.Command{
		Use:   "create --name NAME --role ROLE",
		Short: "Make a credential and print its token, once",
		Long: "Make a credential and print its token on standard output. The token is shown once: only a hash is kept.\n" +
			"A viewer reads; a releaser runs releases and adds evidence; an approver approves; an operator may do everything.",
		Example: "  (umask 077; headgate token create --data /var/lib/headgate --name ci --role releaser --expires 2160h > ci.token)",
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if name == "" || role == "" {
				return usageError{errors.New("--name and --role are required; the role is one of viewer, releaser, approver, operator")}
			}
			if !slices.Contains(access.Roles(), access.Role(role)) {
				return usageError{fmt.Errorf("--role: %q is no role; use viewer, releaser, approver or operator", role)}
			}
			if expires < 0 {
				return usageError{errors.New("--expires must be a duration such as 2160h; leave it out for a token that does not expire")}
			}
			dir, err := a.dataDir(data)
			if err != nil {
				return err
			}
			return withStore(c.Context(), dir, func(db *sqlite.DB) error {
				token, cred, err := access.Issue(c.Context(), db, name, person, access.Role(role), tenants, expires, time.Now().UTC())
				if err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, token)
				fmt.Fprintf(a.stderr, "credential %s: %s of %s, %s\nThe token above is not shown again; keep it in a file that only its user reads, and name that in HEADGATE_TOKEN_FILE.\n",
					cred.ID, cred.Role, reach(cred), validity(cred))
				return nil
			})
		},
	}
	f := c.Flags()
	dataFlag(c, &data)
	f.StringVar(&name, "name", "", "who or what will use it, for the audit log (required)")
	f.StringVar(&person, "person", "", "who holds it, if --name does not say: what takes two people never takes two credentials of one (default: the name)")
	f.StringVar(&role, "role", "", "viewer, releaser, approver or operator (required)")
	f.StringArrayVar(&tenants, "tenant", nil, "tenant that it is confined to (repeatable; default: all)")
	f.DurationVar(&expires, "expires", 0, "how long it is good, for example 2160h (default: for ever)")
	return c
}

func newTokenListCommand(a *app) *cobra.Command {
	var data, output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List credentials, without secrets",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			dir, err := a.existingDataDir(data)
			if err != nil {
				return err
			}
			return withStore(c.Context(), dir, func(db *sqlite.DB) error {
				all, err := db.Credentials(c.Context())
				if err != nil {
					return err
				}
				if output == outputJSON {
					return writeJSON(a.stdout, all)
				}
				rows := make([][]string, len(all))
				for i, cred := range all {
					rows[i] = []string{cred.ID, cred.Name, cmp.Or(cred.Person, cred.Name), string(cred.Role), reach(cred), cred.CreatedAt.Local().Format(time.DateTime), validity(cred)}
				}
				return a.table([]string{"ID", "NAME", "PERSON", "ROLE", "TENANTS", "CREATED", "VALIDITY"}, rows)
			})
		},
	}
	dataFlag(c, &data)
	outputFlag(c.Flags(), &output)
	return c
}

func newTokenRevokeCommand(a *app) *cobra.Command {
	var data string
	c := &cobra.Command{
		Use:   "revoke ID",
		Short: "Make a credential worthless",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := a.existingDataDir(data)
			if err != nil {
				return err
			}
			return withStore(c.Context(), dir, func(db *sqlite.DB) error {
				found, err := db.DeleteCredential(c.Context(), args[0])
				if err != nil {
					return err
				}
				if !found {
					return headgate.Errorf(headgate.CodeNotFound, headgate.ClassValidation, "there is no credential %s; headgate token list shows them", printable(args[0]))
				}
				fmt.Fprintf(a.stdout, "credential %s is revoked\n", args[0])
				return nil
			})
		},
	}
	dataFlag(c, &data)
	return c
}

func dataFlag(c *cobra.Command, data *string) {
	c.Flags().StringVar(data, "data", "", "the server's data folder (HEADGATE_DATA, default "+config.DefaultSettings().DataDir+")")
}

// dataDir is the folder that the flag or the environment names.
func (a *app) dataDir(flag string) (string, error) {
	flags := map[string]string{}
	if flag != "" {
		flags["data"] = flag
	}
	s, err := config.LoadSettings(config.Sources{Environ: a.environ, Flags: flags})
	return s.DataDir, err
}

// existingDataDir is dataDir for commands that should not make one.
func (a *app) existingDataDir(flag string) (string, error) {
	dir, err := a.dataDir(flag)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "headgate.db")); err != nil {
		return "", headgate.Invalidf("%s is not the data folder of a server; give --data or HEADGATE_DATA", dir)
	}
	return dir, nil
}

// withStore opens a data folder that no server uses.
func withStore(ctx context.Context, dir string, do func(*sqlite.DB) error) error {
	db, err := sqlite.Open(ctx, dir)
	if errors.Is(err, &headgate.Error{Code: headgate.CodeUnavailable}) {
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"a running server uses %s, and only one process may; stop it, run this again, and start it", dir).Wrap(err)
	}
	if err != nil {
		return err
	}
	return errors.Join(do(db), db.Close())
}

func reach(c access.Credential) string {
	if len(c.Tenants) == 0 {
		return "all tenants"
	}
	return strings.Join(c.Tenants, ", ")
}

func validity(c access.Credential) string {
	if c.ExpiresAt.IsZero() {
		return "does not expire"
	}
	return "until " + c.ExpiresAt.Local().Format(time.DateTime)
}
