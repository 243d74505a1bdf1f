package enginetest

var raceCases, randomCases []indexCase
