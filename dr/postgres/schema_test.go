package postgres_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/postgres"
	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

func TestSchema(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	refused := func(t *testing.T, schema string, of error, says string) {
		t.Helper()
		_, err := postgres.Open(t.Context(), postgres.Options{DSN: c.DSN(""), Schema: schema})
		require.ErrorIs(t, err, of)
		require.ErrorContains(t, err, says)
	}

	t.Run("many open it at once", func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 12 {
			all.Go(func() {
				s, err := postgres.Open(t.Context(), postgres.Options{DSN: c.DSN(""), Schema: "many"})
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				if _, err := s.Acquire(t.Context(), fmt.Sprint(i), "me"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		require.Equal(t, "12", c.Query("SELECT count(*) FROM many.claim"))
		require.Equal(t, "1", c.Query("SELECT count(*) FROM many.lifeboat_schema"))
	})

	t.Run("opened again it is the same", func(t *testing.T) {
		s := open(t, c.DSN(""), "again")
		_, err := s.Acquire(t.Context(), "m", "alice")
		require.NoError(t, err)
		_, err = open(t, c.DSN(""), "again").Acquire(t.Context(), "m", "bob")
		require.ErrorIs(t, err, dr.ErrBusy)
	})

	t.Run("names of schemas are quoted", func(t *testing.T) {
		for _, name := range []string{`Büro "1"; DROP TABLE x`, "@.claim", strings.Repeat("x", 63)} {
			_, err := open(t, c.DSN(""), name).Acquire(t.Context(), "m", "me")
			require.NoError(t, err)
		}
		for _, name := range []string{strings.Repeat("x", 64), "a\x00b", "\xff"} {
			refused(t, name, dr.ErrInvalid, "no name of a schema")
		}
	})

	t.Run("an empty schema that was made for it is used", func(t *testing.T) {
		c.Query("CREATE ROLE maker LOGIN PASSWORD 'maker-pw'; CREATE SCHEMA made AUTHORIZATION maker")
		everything(t, open(t, c.DSNAs("maker", "maker-pw", ""), "made"))
	})

	t.Run("another program's schema stays as it is", func(t *testing.T) {
		c.Query("CREATE SCHEMA theirs; CREATE TABLE theirs.claim(n int)")
		refused(t, "theirs", dr.ErrInvalid, "another program's")
		require.Equal(t, "1", c.Query("SELECT count(*) FROM pg_tables WHERE schemaname = 'theirs'"))
		c.Query("CREATE SCHEMA odd; CREATE TABLE odd.lifeboat_schema(n int)")
		refused(t, "odd", dr.ErrInvalid, "another program's")
		c.Query("CREATE SCHEMA other; CREATE TABLE other.lifeboat_schema(program text, version int, floor int); INSERT INTO other.lifeboat_schema VALUES('boat', 1, 1)")
		refused(t, "other", dr.ErrInvalid, "another program's")
		c.Query("CREATE SCHEMA half; CREATE TABLE half.lifeboat_schema(program text, version int, floor int)")
		refused(t, "half", dr.ErrInvalid, "another program's")
	})

	t.Run("a later version is used if it says so, and refused if not", func(t *testing.T) {
		open(t, c.DSN(""), "later")
		c.Query("UPDATE later.lifeboat_schema SET version = 99")
		open(t, c.DSN(""), "later")
		require.Equal(t, "99", c.Query("SELECT version FROM later.lifeboat_schema"))
		c.Query("UPDATE later.lifeboat_schema SET floor = 99")
		refused(t, "later", dr.ErrUnsupported, "version 99")
	})

	t.Run("upgraded beneath a program that runs", func(t *testing.T) {
		s := open(t, c.DSN(""), "beneath")
		p, err := s.Save(t.Context(), dr.Protection{ID: "p"})
		require.NoError(t, err)
		c.Query("ALTER TABLE beneath.claim RENAME TO claim2; ALTER TABLE beneath.protection RENAME TO protection2")
		_, err = s.Acquire(t.Context(), "m", "me")
		require.ErrorIs(t, err, dr.ErrUnsupported)
		_, err = s.Save(t.Context(), p)
		require.ErrorIs(t, err, dr.ErrUnsupported)
	})

	t.Run("a database that can't hold every text", func(t *testing.T) {
		c.Query("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
		_, err := postgres.Open(t.Context(), postgres.Options{DSN: c.DSN("latin")})
		require.ErrorIs(t, err, dr.ErrUnsupported)
		require.ErrorContains(t, err, "LATIN1")
	})

	t.Run("a server that forgets is told of", func(t *testing.T) {
		var log bytes.Buffer
		s, err := postgres.Open(t.Context(), postgres.Options{DSN: c.DSN(""), Log: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		defer s.Close()
		require.Contains(t, log.String(), "fsync=off", "as pgtest sets it")
	})
}

// A role that has what Grants says can do everything but change tables and
// delete what has to stay.
func testGrantsAreEnough(t *testing.T, c *pgtest.Cluster) {
	c.Query(`CREATE ROLE "the app" LOGIN PASSWORD 'pw-of-the-app'`)
	dsn := c.DSNAs("the app", "pw-of-the-app", "")
	_, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn})
	require.ErrorIs(t, err, dr.ErrNotAllowed, "it may not make a schema")
	require.ErrorContains(t, err, "postgres.Grants")

	open(t, c.DSN(""), "")
	_, err = postgres.Open(t.Context(), postgres.Options{DSN: dsn})
	require.ErrorIs(t, err, dr.ErrNotAllowed)
	c.Query(postgres.Grants("", "the app"))
	s := open(t, dsn, "")
	everything(t, s)
	for _, sql := range []string{"DELETE FROM lifeboat.claim", "DELETE FROM lifeboat.protection", "DELETE FROM lifeboat.shard", "TRUNCATE lifeboat.claim",
		"UPDATE lifeboat.lifeboat_schema SET version = 2", "CREATE TABLE lifeboat.x()"} {
		out, err := c.Command("psql", "-XAtq", "-d", dsn, "-c", sql).CombinedOutput()
		require.Error(t, err, sql)
		require.Regexp(t, "permission denied", string(out))
	}
}
