#!/usr/bin/env bash
# Makes the certificates of the TLS tests anew: a root that only a test trusts, and three that it
# has signed for one key. They hold for a hundred years, but for the one that has expired.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

for key in root server; do
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$key.key"
done
touch "$work/index"
cat >"$work/ca.conf" <<CONF
[ca]
default_ca = own
[own]
database = $work/index
new_certs_dir = $work
private_key = $work/root.key
certificate = $work/root.pem
default_md = sha256
policy = any
rand_serial = yes
unique_subject = no
[any]
commonName = supplied
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[loopback]
basicConstraints = critical, CA:false
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1
[stranger]
basicConstraints = critical, CA:false
extendedKeyUsage = serverAuth
subjectAltName = DNS:relay.example
CONF

# certificate NAME KEY EXTENSIONS END [OPTION...]
certificate() {
  openssl req -new -key "$work/$2.key" -subj "/CN=huddle-firehose test: $1" -out "$work/request"
  openssl ca -batch -notext -config "$work/ca.conf" -extensions "$3" -startdate 20200101000000Z \
    -enddate "$4" -in "$work/request" -out "$work/$1.pem" "${@:5}"
  openssl x509 -in "$work/$1.pem" -outform der -out "$1.der"
}
certificate root root root 21200101000000Z -selfsign
certificate loopback server loopback 21200101000000Z
certificate expired server loopback 20200201000000Z
certificate stranger server stranger 21200101000000Z
openssl pkcs8 -topk8 -nocrypt -in "$work/server.key" -outform der -out server.key.der
