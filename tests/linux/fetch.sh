#!/bin/sh
# Unpacks Debian's user-mode-linux and kmod into the cache folder, and prints that folder's path.
# Nothing is installed; a folder that is complete is left alone. The last step is a rename, so that two test
# runs may fetch at once, and a run that was interrupted leaves nothing that looks complete.
set -eu

cache="${XDG_CACHE_HOME:-$HOME/.cache}/uxfrm"
home="$cache/uml-6.1"
wanted="6.1."

fail() {
    echo "fetch.sh: $*" >&2
    exit 1
}

if [ -e "$home/release" ]; then
    echo "$home"
    exit 0
fi
for tool in apt-get dpkg; do
    command -v "$tool" >/dev/null || fail "there is no $tool here: the kernel comes from Debian 12's packages"
done
mkdir -p "$cache"
work=$(mktemp -d "$cache/uml-6.1.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/debs" "$work/root"
# apt downloads as the user _apt where it can, which needs the folder to be its own.
download() { (cd "$work/debs" && apt-get -q -o APT::Sandbox::User=root download user-mode-linux kmod) >"$work/log" 2>&1; }

# Old package lists are the usual reason of a failure, and renewing them takes longer than the download.
download || {
    apt-get -q update >"$work/update" 2>&1 || true
    download || fail "could not download user-mode-linux and kmod:
$(tail -n 5 "$work/update" "$work/log")"
}
for package in "$work"/debs/*.deb; do
    dpkg -x "$package" "$work/root"
done

set -- "$work/root/usr/lib/uml/modules/$wanted"*
[ -d "$1" ] || fail "the user-mode-linux package holds no $wanted kernel but $(ls "$work/root/usr/lib/uml/modules")"
# modprobe -d FOLDER looks for modules in FOLDER/lib/modules, and goes by the name that it is called.
ln -s ../usr/lib/uml/modules "$work/root/lib/modules"
ln -s ../../bin/kmod "$work/root/usr/bin/modprobe"
basename "$1" >"$work/root/release"
mv -T "$work/root" "$home" 2>/dev/null || [ -e "$home/release" ] || fail "could not move the packages to $home"
echo "$home"
