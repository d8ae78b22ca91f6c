// Package regf reads registry hives of Windows, read-only. What a hive's
// transaction logs hold beyond it is not read: [Hive.Dirty] says that there
// is something.
//
// Source: Maxim Suhanov's specification of the format, and the hives that
// hivex and Windows write. Every number is checked before it is followed.
//
// What may not live here: what keys mean.
package regf
