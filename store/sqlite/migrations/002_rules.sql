-- +goose Up
-- Every change of the rules, waiting or made. The one with the highest rank is
-- in force; 0 has not come into force.
CREATE TABLE rule_changes (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    digest TEXT NOT NULL,
    base   TEXT NOT NULL,
    rank   BIGINT NOT NULL DEFAULT 0,
    change TEXT NOT NULL
);
CREATE INDEX rule_changes_by_rank ON rule_changes (rank) WHERE rank > 0;
