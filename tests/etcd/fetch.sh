#!/bin/sh
# Fetch what the tests of the etcd API are run beside: etcd and etcdctl of Debian, and the Python
# clients' source distributions with their own test suites.
#
#   fetch.sh DIRECTORY [PYTHON]
#
# Nothing is installed into the system; to get rid of it remove DIRECTORY.
set -eu

directory=${1:?'name the directory to put it into'}
python=${2:-python3}
mkdir -p "$directory/root" "$directory/suites" "$directory/download"
directory=$(cd "$directory" && pwd)

if [ ! -x "$directory/root/usr/bin/etcdctl" ]; then
  cd "$directory/download"
  apt-get download etcd-server etcd-client 2>/dev/null ||
    { echo 'etcd-server and etcd-client cannot be had by apt-get download' >&2; exit 1; }
  for file in *.deb; do
    dpkg-deb -x "$file" "$directory/root"
    rm "$file"
  done
fi

cd "$directory/suites"
for suite in etcd3==0.12.0 etcd3gw==2.7.0 aetcd==1.0.0; do
  folder=$(echo "$suite" | sed 's/==/-/')
  [ -d "$folder" ] && continue
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
    --no-build-isolation "$suite" 2>/dev/null ||
    { echo "$suite cannot be had from the package index" >&2; exit 1; }
  tar xzf "$folder.tar.gz"
done
