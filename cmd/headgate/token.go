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
	"github.com/headgate/headgate/client"
	"github.com/headgate/headgate/config"
	"github.com/headgate/headgate/store/sqlite"
)

func newTokenCommand(a *app) *cobra.Command {
	return group("token", "Make, list and revoke credentials, of a running server or in the data folder of a stopped one",
		newTokenCreateCommand(a), newTokenListCommand(a), newTokenRevokeCommand(a))
}

func newTokenCreateCommand(a *app) *cobra.Command {
	var k keeper
	var n client.NewToken
	var expires time.Duration
	c := &cobra.Command{
		Use:   "create --name NAME --role ROLE",
		Short: "Make a credential and print its token, once",
		Long: "Make a credential and print its token on standard output. The token is shown once: only a hash is kept.\n" +
			"A viewer reads; a releaser runs releases and adds evidence; an approver approves; an operator may do everything.\n" + keeperHelp,
		Example: "  (umask 077; headgate token create --data /var/lib/headgate --name ada --role operator > ada.token)\n" +
			"  (umask 077; headgate token create --token-file ada.token --name ci --role releaser --expires 2160h > ci.token)",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if n.Name == "" || n.Role == "" {
				return usageError{errors.New("--name and --role are required; the role is one of viewer, releaser, approver, operator")}
			}
			if !slices.Contains(access.Roles(), access.Role(n.Role)) {
				return usageError{fmt.Errorf("--role: %q is no role; use viewer, releaser, approver or operator", n.Role)}
			}
			if expires < 0 {
				return usageError{errors.New("--expires must be a duration such as 2160h; leave it out for a token that does not expire")}
			}
			n.ExpiresS = expires.Seconds()
			return a.withTokens(c.Context(), k, true, func(t tokens) error {
				made, err := t.CreateToken(c.Context(), n)
				if err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, made.Token)
				fmt.Fprintf(a.stderr, "credential %s: %s of %s, %s\nThe token above is not shown again; keep it in a file that only its user reads, and name that in HEADGATE_TOKEN_FILE.\n",
					made.ID, made.Role, printable(reach(made.Credential)), validity(made.Credential))
				return nil
			})
		},
	}
	f := c.Flags()
	k.declare(c)
	f.StringVar(&n.Name, "name", "", "who or what will use it, for the audit log (required)")
	f.StringVar(&n.Person, "person", "", "who holds it, if --name does not say: what takes two people never takes two credentials of one (default: the name)")
	f.StringVar(&n.Role, "role", "", "viewer, releaser, approver or operator (required)")
	f.StringArrayVar(&n.Tenants, "tenant", nil, "tenant that it is confined to (repeatable; default: all that yours reaches)")
	f.DurationVar(&expires, "expires", 0, "how long it is good, for example 2160h (default: for ever)")
	return c
}

func newTokenListCommand(a *app) *cobra.Command {
	var k keeper
	var output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List credentials, without secrets",
		Long:  "List credentials, without secrets.\n" + keeperHelp,
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			return a.withTokens(c.Context(), k, false, func(t tokens) error {
				all, err := t.Tokens(c.Context())
				if err != nil {
					return err
				}
				if output == outputJSON {
					return writeJSON(a.stdout, all)
				}
				rows := make([][]string, len(all))
				for i, cred := range all {
					rows[i] = []string{
						cred.ID, printable(cred.Name), printable(cmp.Or(cred.Person, cred.Name)), cred.Role, printable(reach(cred)),
						cred.CreatedAt.Local().Format(time.DateTime), printable(cmp.Or(cred.CreatedBy, "–")), validity(cred),
					}
				}
				return a.table([]string{"ID", "NAME", "PERSON", "ROLE", "TENANTS", "CREATED", "BY", "VALIDITY"}, rows)
			})
		},
	}
	k.declare(c)
	outputFlag(c.Flags(), &output)
	return c
}

func newTokenRevokeCommand(a *app) *cobra.Command {
	var k keeper
	c := &cobra.Command{
		Use:   "revoke ID",
		Short: "Make a credential worthless, at once",
		Long:  "Make a credential worthless, at once.\n" + keeperHelp,
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withTokens(c.Context(), k, false, func(t tokens) error {
				gone, err := t.RevokeToken(c.Context(), args[0])
				if err != nil {
					return err
				}
				fmt.Fprintf(a.stdout, "credential %s (%s) is revoked\n", gone.ID, printable(gone.Name))
				return nil
			})
		},
	}
	k.declare(c)
	return c
}

const keeperHelp = "With an operator's token (--token-file or its variables) or a server's address it asks the server that runs; with --data, or\n" +
	"without any of them, it opens the data folder of one that is stopped: so the first token is made."

// tokens are kept by a running server, or in a data folder.
type tokens interface {
	CreateToken(ctx context.Context, n client.NewToken) (client.IssuedToken, error)
	Tokens(ctx context.Context) ([]client.Credential, error)
	RevokeToken(ctx context.Context, id string) (client.Credential, error)
}

// keeper says who keeps the tokens.
type keeper struct {
	data string
	connection
}

func (k *keeper) declare(c *cobra.Command) {
	dataFlag(c, &k.data)
	k.flags(c.Flags())
}

// withTokens hands do the tokens that k and the environment name. Only where
// create says so, a data folder is made that does not exist.
func (a *app) withTokens(ctx context.Context, k keeper, create bool, do func(tokens) error) error {
	asked := k.url != "" || k.tokenFile != ""
	if k.data != "" && asked {
		return usageError{errors.New("--data is for a stopped server, --url and --token-file are for one that runs; give one of them")}
	}
	s, err := config.LoadSettings(config.Sources{Environ: a.environ})
	if err != nil {
		return err
	}
	if asked || k.data == "" && (a.getenv(tokenVariable) != "" || !byDefault(s, "token_file") || !byDefault(s, "url")) {
		cl, err := a.connect(k.connection)
		if err != nil {
			return err
		}
		return do(cl)
	}
	dir, err := a.dataDir(k.data)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "headgate.db")); err != nil && !create {
		return headgate.Invalidf("%s is not the data folder of a server; give --data or HEADGATE_DATA", dir)
	}
	db, err := sqlite.Open(ctx, dir)
	if errors.Is(err, &headgate.Error{Code: headgate.CodeUnavailable}) {
		return headgate.Errorf(headgate.CodeUnavailable, headgate.ClassTransient,
			"a running server uses %s, and only one process may; ask the server, with --token-file and an operator's token, or stop it", dir).Wrap(err)
	}
	if err != nil {
		return err
	}
	return errors.Join(do(folderTokens{db}), db.Close())
}

// folderTokens are those in the data folder of a stopped server, whose owner
// may do with them what an operator may.
type folderTokens struct{ db *sqlite.DB }

var folderOwner = access.Identity{Name: "headgate token", Role: access.Operator}

func (f folderTokens) CreateToken(ctx context.Context, n client.NewToken) (client.IssuedToken, error) {
	token, c, err := access.Issue(ctx, f.db, folderOwner, access.Wanted{
		Name: n.Name, Person: n.Person, Role: access.Role(n.Role), Tenants: n.Tenants, TTL: time.Duration(n.ExpiresS * float64(time.Second)),
	}, time.Now().UTC())
	return client.IssuedToken{Token: token, Credential: told(c)}, err
}

func (f folderTokens) Tokens(ctx context.Context) ([]client.Credential, error) {
	all, err := access.List(ctx, f.db, folderOwner)
	out := make([]client.Credential, len(all))
	for i, c := range all {
		out[i] = told(c)
	}
	return out, err
}

func (f folderTokens) RevokeToken(ctx context.Context, id string) (client.Credential, error) {
	c, err := access.Revoke(ctx, f.db, folderOwner, id, time.Now().UTC())
	return told(c), err
}

// told is a credential as a server would tell of it.
func told(c access.Credential) client.Credential {
	return client.Credential{
		ID: c.ID, Name: c.Name, Person: c.Person, Role: string(c.Role), Tenants: c.Tenants,
		CreatedAt: c.CreatedAt, CreatedBy: c.CreatedBy, ExpiresAt: c.ExpiresAt,
	}
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

func reach(c client.Credential) string {
	if len(c.Tenants) == 0 {
		return "all tenants"
	}
	return strings.Join(c.Tenants, ", ")
}

func validity(c client.Credential) string {
	if c.ExpiresAt.IsZero() {
		return "does not expire"
	}
	return "until " + c.ExpiresAt.Local().Format(time.DateTime)
}
