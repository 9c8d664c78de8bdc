package haproxy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnswersAreRead(t *testing.T) {
	t.Parallel()
	table := "# table: lease, type: string, size:1024, used:1\n0x55: key=7 use=0 exp=59998 gpc0=1\n0x56: key=stable|acme use=0 exp=0 http_fail_cnt=2 http_req_rate(10000)=3\n\n"
	want := []map[string]string{
		{"key": "7", "use": "0", "exp": "59998", "gpc0": "1"},
		{"key": "stable|acme", "use": "0", "exp": "0", "http_fail_cnt": "2", "http_req_rate": "3"},
	}
	if d := cmp.Diff(want, tableEntries(table)); d != "" {
		t.Error(d)
	}
	servers := "1\n# be_id be_name srv_id …\n5 stable 1 s 127.0.0.1 2 0 1 1 21 15 3 4 6 0 0 0 - 8080 - 0 0 - - 0\n5 stable 2 t 127.0.0.1 0 0 1 1 21 15 3 4 6 0 0 0 - 8081 - 0 0 - - 0\n"
	wantServers := map[string]server{"stable/s": {"127.0.0.1:8080", true}, "stable/t": {"127.0.0.1:8081", false}}
	if d := cmp.Diff(wantServers, serverStates(servers), cmp.AllowUnexported(server{})); d != "" {
		t.Error(d)
	}
}

// FuzzAnswers asks only that no answer makes the parsers fail.
func FuzzAnswers(f *testing.F) {
	f.Add("0x1: key=a use=0 exp=1 gpc0=1\n")
	f.Add("0x1 key value\n")
	f.Add("0x1: =\n: \n0x")
	f.Fuzz(func(_ *testing.T, answer string) {
		tableEntries(answer)
		mapEntries(answer)
		serverStates(answer)
	})
}
