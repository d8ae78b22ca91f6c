// Package postgres keeps claims and protections' records in a PostgreSQL
// database, for any number of processes and engines at once.
package postgres
