// Package deploy holds what stands in deploy/ to what it promises, without a
// cluster, an image registry or a Docker daemon: the compose file goes through
// the compose-spec's own loader, the configurations start the real servers.
package deploy
