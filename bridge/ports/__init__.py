"""The ports: where the Matrix side and the bridge side meet. Pure values and protocols."""
