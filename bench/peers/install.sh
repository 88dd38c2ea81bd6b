#!/bin/sh
# Fetch the peers of `paxon bench peers`: etcd and Redis from Debian, PySyncObj from PyPI.
#
#   install.sh DIRECTORY [PYTHON]
#
# Nothing is installed into the system and no service is started, so root is not needed: packages
# are downloaded and unpacked into DIRECTORY, with the libraries that the system lacks. To get rid
# of them remove DIRECTORY.
set -eu

directory=${1:?'name the directory to put the peers into'}
python=${2:-python3}

fail() {
  echo "$*" >&2
  exit 1
}

mkdir -p "$directory/download" "$directory/root"
directory=$(cd "$directory" && pwd)

# --- etcd and Redis ------------------------------------------------------------------------------

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail \
  'etcd and Redis are fetched with apt-get: on another system than Debian install etcd, redis-server
and redis-benchmark in your system'"'"'s own way; they are found in PATH.'

# A simulated installation tells which packages are missing, whatever they depend on included.
wanted=
for package in etcd-server redis-server redis-tools; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    wanted="$wanted $package"
done
if [ -n "$wanted" ]; then
  # shellcheck disable=SC2086 # a list of words
  plan=$(apt-get install --simulate --no-install-recommends $wanted) ||
    fail "Debian's package lists know no$wanted: run apt-get update as root, then this again."
  cd "$directory/download"
  # shellcheck disable=SC2046 # the same
  apt-get download $(echo "$plan" | awk '$1 == "Inst" { print $2 }') ||
    fail 'The packages could not be downloaded: run apt-get update as root, then this again.'
  for file in *.deb; do
    dpkg-deb -x "$file" "$directory/root"
    rm "$file"
  done
fi

# --- PySyncObj -----------------------------------------------------------------------------------

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -m pip install --quiet --disable-pip-version-check --upgrade \
  --target "$directory/python$version" pysyncobj ||
  fail 'PySyncObj could not be fetched: is pip there and does it reach the package index?'

echo "The peers are in $directory."
