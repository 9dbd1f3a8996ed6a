#!/usr/bin/env bash
# Install the Ceph programs that the S3 tests start, where that is possible. Tests skip without them, so this never
# fails its caller: it prints one line that says what it did, or why it did nothing.
set -uo pipefail

PACKAGES=(ceph-mon ceph-osd radosgw)  # ceph-mon brings the command `ceph` along
PROGRAMS=(ceph ceph-mon ceph-osd monmaptool radosgw radosgw-admin)
LIMIT_S=${PARQUETRY_INSTALL_LIMIT_S:-300}

missing() {
    local program
    for program in "${PROGRAMS[@]}"; do
        command -v "$program" >/dev/null || printf '%s ' "$program"
    done
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    # Package scripts may try to start the services; the tests start their own.
    local quiet=(-qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=60)
    timeout --kill-after=10 "$LIMIT_S" apt-get "${quiet[@]}" update &&
        timeout --kill-after=10 "$LIMIT_S" apt-get "${quiet[@]}" install --yes --no-install-recommends "${PACKAGES[@]}"
}

if [ -z "$(missing)" ]; then
    echo "Ceph is installed: $(ceph --version 2>/dev/null | cut -d' ' -f1-3)"
elif ! command -v apt-get >/dev/null; then
    echo "Ceph was not installed: no apt-get here, and there is no $(missing)"
elif [ "$(id -u)" -ne 0 ]; then
    echo "Ceph was not installed: that needs root; run: apt-get install --no-install-recommends ${PACKAGES[*]}"
else
    log=$(mktemp)
    if install >"$log" 2>&1 </dev/null && [ -z "$(missing)" ]; then
        echo "Ceph was installed in ${SECONDS} s: $(ceph --version 2>/dev/null | cut -d' ' -f1-3)"
    else
        echo "Ceph was not installed: $(grep -E '^(E|Err|W):?' "$log" | tail -n 1 | grep . || tail -n 1 "$log")"
    fi
    rm -f "$log"
fi
exit 0
