package gate

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
	"github.com/headgate/headgate"
)

const (
	// maxRules, maxExpr and maxCost bound what a rule set may cost: at most
	// 64 expressions of 2 kB, each stopped after 10,000 CEL cost units, which
	// is well under a millisecond.
	maxRules = 64
	maxExpr  = 2048
	maxCost  = 10_000
)

var celEnv = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("metrics", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("samples", cel.MapType(cel.StringType, cel.IntType)),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserRecursionLimit(32),
		cel.ParserExpressionSizeLimit(maxExpr),
	)
})

// compile returns the program of a boolean expression over metrics and
// samples.
func compile(expr string) (cel.Program, error) {
	if len(expr) > maxExpr {
		return nil, fmt.Errorf("is longer than %d bytes", maxExpr)
	}
	env, err := celEnv()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(expr)
	if issues.Err() != nil {
		return nil, fmt.Errorf("is not a valid CEL expression over metrics and samples: %w", issues.Err())
	}
	if ast.OutputType() != cel.BoolType {
		return nil, errors.New("must be a comparison that is true or false")
	}
	return env.Program(ast, cel.CostLimit(maxCost), cel.CustomDecoratorV2(calculateFinite))
}

// calculateFinite makes a calculation an error that comes to no finite number.
// CEL divides by zero and gives infinity, which is above every threshold, or
// NaN, which is never above one: either would be a pass.
func calculateFinite(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	if call, ok := i.(interpreter.InterpretableCall); ok {
		return finiteCall{call}, nil
	}
	return i, nil
}

type finiteCall struct{ interpreter.InterpretableCall }

func (c finiteCall) Eval(a interpreter.Activation) ref.Val {
	return finite(c.InterpretableCall.Eval(a))
}

func (c finiteCall) Exec(f *interpreter.ExecutionFrame) ref.Val {
	return finite(c.InterpretableCall.Exec(f))
}

func finite(v ref.Val) ref.Val {
	if d, ok := v.(types.Double); ok && (math.IsNaN(float64(d)) || math.IsInf(float64(d), 0)) {
		return types.NewErr("no finite number")
	}
	return v
}

// judgeOwn adds what rules of one's own find.
func (r *Result) judgeOwn(rules RuleSet, in Input) {
	var variables map[string]any
	for i, own := range rules.body.Rules {
		if own.Gate != r.Gate {
			continue
		}
		if variables == nil {
			variables = map[string]any{"metrics": plain(in.Metrics, 0), "samples": samples(rules.criteria[r.Gate], in.Origins)}
		}
		r.add(own.judge(rules.programs[i], variables), own.Code)
	}
}

// judge evaluates the rule. An expression that cannot be evaluated, because a
// metric it names was not sent, because it divides by zero or because it costs
// too much, is broken.
func (r rule) judge(program cel.Program, variables map[string]any) Check {
	c := Check{Name: r.Name, Code: r.Code, Threshold: r.Expr, Op: "cel", Verdict: headgate.Broken}
	out, _, err := program.Eval(variables)
	if err != nil {
		// The error's text may quote a metric.
		c.Detail = "the rule cannot be evaluated: a metric that it names is missing or of another type, it divides by zero, or it costs too much"
		return c
	}
	ok, isBool := out.Value().(bool)
	if !isBool {
		c.Detail = "the rule did not come out as true or false"
		return c
	}
	c.Value, c.Verdict = ok, headgate.Fail
	if ok {
		c.Verdict = headgate.Pass
	}
	return c
}
