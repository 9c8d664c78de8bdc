package bidding

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

//go:embed versions/*.yaml
var versionFiles embed.FS

// maxVersionBytes bounds a version file.
const maxVersionBytes = 64 << 10

// Version is what one release of the service is made of. Two processes with
// the same Version behave the same.
type Version struct {
	Version         string    `yaml:"version" json:"version"`
	ModelConfig     Model     `yaml:"model_config" json:"model_config"`
	RetrievalParams Retrieval `yaml:"retrieval_params" json:"retrieval_params"`
	WorkflowVersion string    `yaml:"workflow_version" json:"workflow_version"`
	Fault           Fault     `yaml:"fault" json:"fault"`
}

// Model is the price and the confidence rule of the scoring step.
type Model struct {
	Name string `yaml:"name" json:"name"`
	// USDPerKChar is the price of 1000 processed characters in US dollars.
	USDPerKChar float64 `yaml:"usd_per_kchar" json:"usd_per_kchar"`
	// ReviewBelow is the confidence 0..1 under which an evaluation waits for a
	// reviewer.
	ReviewBelow float64 `yaml:"review_below" json:"review_below"`
	// BudgetUSDPerDay is each tenant's budget; the worker warns once a day
	// when a tenant passes it. 0 is no budget and no alert.
	BudgetUSDPerDay float64 `yaml:"budget_usd_per_day" json:"budget_usd_per_day"`
}

// Retrieval are the parameters of BM25 (Robertson and Zaragoza, 2009).
type Retrieval struct {
	Name string  `yaml:"name" json:"name"`
	K1   float64 `yaml:"k1" json:"k1"`
	B    float64 `yaml:"b" json:"b"`
	// TopK is how many passages support a criterion, 1..20, unless the request
	// says otherwise.
	TopK int `yaml:"top_k" json:"top_k"`
}

// Fault is a defect that a version carries on purpose.
type Fault struct {
	Kind string `yaml:"kind" json:"kind"`
	// Share is the part 0..1 of requests that error_rate and slow_tail hit.
	Share float64 `yaml:"share,omitempty" json:"share,omitempty"`
	// Tenant is whom tenant_errors hits.
	Tenant string `yaml:"tenant,omitempty" json:"tenant,omitempty"`
	// Delay is how long slow_tail holds a request.
	Delay Duration `yaml:"delay,omitempty" json:"delay_s,omitempty"`
	// Factor multiplies the cost of every task under cost_jump.
	Factor float64 `yaml:"factor,omitempty" json:"factor,omitempty"`
	// After is how long crash_loop lives.
	After Duration `yaml:"after,omitempty" json:"after_s,omitempty"`
}

// The kinds of fault.
const (
	FaultNone          = "none"
	FaultErrorRate     = "error_rate"
	FaultTenantErrors  = "tenant_errors"
	FaultSlowTail      = "slow_tail"
	FaultCostJump      = "cost_jump"
	FaultWrongCitation = "wrong_citation"
	FaultTenantLeak    = "tenant_leak"
	FaultCrashLoop     = "crash_loop"
)

// Duration is a time.Duration written like "250ms" in YAML and as seconds in
// JSON.
type Duration time.Duration

// UnmarshalYAML reads Go's duration syntax.
func (d *Duration) UnmarshalYAML(unmarshal func(any) error) error {
	var s string
	if err := unmarshal(&s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 250ms", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML writes Go's duration syntax.
func (d Duration) MarshalYAML() (any, error) { return time.Duration(d).String(), nil }

// MarshalJSON writes seconds.
func (d Duration) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%g", time.Duration(d).Seconds()), nil
}

// UnmarshalYAML takes either the word none or a mapping.
func (f *Fault) UnmarshalYAML(unmarshal func(any) error) error {
	var word string
	if unmarshal(&word) == nil {
		if word != FaultNone {
			return fmt.Errorf("fault %q needs its settings; write {kind: %s, …} or none", word, word)
		}
		*f = Fault{Kind: FaultNone}
		return nil
	}
	type plain Fault
	return unmarshal((*plain)(f))
}

// LoadVersion reads a version by the name of a shipped one ("v1.1.0") or from
// a file.
func LoadVersion(nameOrPath string) (Version, error) {
	data, err := versionFiles.ReadFile(path.Join("versions", nameOrPath+".yaml"))
	if err != nil {
		if data, err = readBounded(nameOrPath); err != nil {
			return Version{}, fmt.Errorf("version %q is neither shipped (%s) nor a readable file: %w",
				nameOrPath, strings.Join(VersionNames(), ", "), err)
		}
	}
	v, err := ParseVersion(data)
	if err != nil {
		return Version{}, fmt.Errorf("%s: %w", nameOrPath, err)
	}
	return v, nil
}

func readBounded(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxVersionBytes {
		return nil, fmt.Errorf("larger than %d bytes", maxVersionBytes)
	}
	return os.ReadFile(name)
}

// VersionNames returns the names of the shipped versions, sorted.
func VersionNames() []string {
	entries, _ := fs.ReadDir(versionFiles, "versions") // embedded, cannot fail
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = strings.TrimSuffix(e.Name(), ".yaml")
	}
	return names
}

// ParseVersion reads and checks one version file. Errors name the field, and
// the line where YAML knows it.
func ParseVersion(data []byte) (Version, error) {
	var v Version
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&v); err != nil {
		return Version{}, fmt.Errorf("not a version file: %w", err)
	}
	if v.Fault.Kind == "" {
		v.Fault.Kind = FaultNone
	}
	return v, v.check()
}

var versionName = regexp.MustCompile(`^v\d{1,4}\.\d{1,4}\.\d{1,4}$`)

func (v Version) check() error {
	var errs []error
	bad := func(ok bool, field, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s must be %s", field, want))
		}
	}
	within := func(x, lo, hi float64) bool { return !math.IsNaN(x) && x >= lo && x <= hi }
	bad(versionName.MatchString(v.Version), "version", "like v1.2.3")
	bad(v.ModelConfig.Name != "", "model_config.name", "set")
	bad(within(v.ModelConfig.USDPerKChar, 0, 100), "model_config.usd_per_kchar", "0..100")
	bad(within(v.ModelConfig.ReviewBelow, 0, 1), "model_config.review_below", "0..1")
	bad(within(v.ModelConfig.BudgetUSDPerDay, 0, 1e9), "model_config.budget_usd_per_day", "0..1e9")
	bad(v.RetrievalParams.Name != "", "retrieval_params.name", "set")
	bad(within(v.RetrievalParams.K1, 0, 10), "retrieval_params.k1", "0..10")
	bad(within(v.RetrievalParams.B, 0, 1), "retrieval_params.b", "0..1")
	bad(within(float64(v.RetrievalParams.TopK), 1, 20), "retrieval_params.top_k", "1..20")
	bad(v.WorkflowVersion != "", "workflow_version", "set")
	f := v.Fault
	switch f.Kind {
	case FaultNone, FaultWrongCitation, FaultTenantLeak:
	case FaultErrorRate:
		bad(within(f.Share, 0, 1), "fault.share", "0..1")
	case FaultTenantErrors:
		bad(f.Tenant != "", "fault.tenant", "set")
	case FaultSlowTail:
		bad(within(f.Share, 0, 1), "fault.share", "0..1")
		bad(f.Delay > 0 && time.Duration(f.Delay) <= time.Minute, "fault.delay", "up to 1m")
	case FaultCostJump:
		bad(within(f.Factor, 1, 1000), "fault.factor", "1..1000")
	case FaultCrashLoop:
		bad(f.After > 0, "fault.after", "a positive duration")
	default:
		errs = append(errs, fmt.Errorf("fault.kind %q is unknown", f.Kind))
	}
	return errors.Join(errs...)
}
