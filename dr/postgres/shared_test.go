package postgres_test

import (
	"testing"

	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

// TestStore runs what leaves the server as it is on one, as making one takes
// longer than most of these. Each finds no schema of the default name.
func TestStore(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *pgtest.Cluster)
	}{
		{"OddNames", testOddNames},
		{"RecordsComeBackExactly", testRecordsComeBackExactly},
		{"DamagedRecords", testDamagedRecords},
		{"ListOfThousands", testListOfThousands},
		{"MovingIn", testMovingIn},
		{"ClosedAndCancelled", testClosedAndCancelled},
		{"GrantsAreEnough", testGrantsAreEnough},
		{"LateAndLost", testLateAndLost},
		{"BadLine", testBadLine},
		{"LateAfterGivingUp", testLateAfterGivingUp},
		{"LateAfterAnother", testLateAfterAnother},
		{"StandbyIsAway", testStandbyIsAway},
		{"FirstHostIsGone", testFirstHostIsGone},
		{"ConnectionsAreForgotten", testConnectionsAreForgotten},
		{"SecretsStayOut", testSecretsStayOut},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.Query("DROP SCHEMA IF EXISTS lifeboat CASCADE")
			test.run(t, c)
		})
	}
}
