// Package enginetest holds the contracts of package engine as test suites:
// TestIndex for engine.Index and its companions, TestObjects for
// engine.Objects. Every adapter runs them in its own tests, and a bug that is
// found in one adapter becomes a case here. It also has wrappers that inject
// faults and count calls. Only tests import it.
package enginetest
