#!/usr/bin/env bash
# Really builds the images and runs them where no container engine runs:
#   deploy/images_check.sh                all three, and sends a picture through them (15 GB of disk, 3 GB of downloads)
#   deploy/images_check.sh channel        some of them, each on its own
#
# The FROM image is a stand-in of the same name, made with debootstrap: Debian's Python 3.11 in the place of the
# official image's. Images and containers live in a directory that is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(realpath "${BIN:-.venv/bin}")
services=("$@")
[ $# -gt 0 ] || services=(channel receiver transmitter)

missing=()
for tool in podman buildah debootstrap runc iptables catatonit; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ] || [ "$(id -u)" != 0 ]; then
    echo "images-check needs root and: ${missing[*]:-nothing more}"
    echo "Debian: apt-get install podman buildah debootstrap runc iptables catatonit netavark aardvark-dns"
    exit 2
fi

work=$(mktemp -d /var/tmp/mmsc-images.XXXXXX)
export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf
# Without systemd, nothing would call the health checks by itself: this script does.
export DISABLE_HC_SYSTEMD=true
export CONTAINERS_REGISTRIES_CONF=$work/registries.conf BUILDAH_ISOLATION=chroot TMPDIR=$work/tmp
mkdir "$TMPDIR"
driver=overlay
mkdir "$work"/{lower,upper,inner,merged}
if mount -t overlay overlay -o "lowerdir=$work/lower,upperdir=$work/upper,workdir=$work/inner" "$work/merged" 2>/dev/null; then
    umount "$work/merged"
else
    driver=vfs # copies every layer, and needs several times the disk
fi
printf '[storage]\ndriver = "%s"\ngraphroot = "%s"\nrunroot = "%s"\n' "$driver" "$work/graph" "$work/run" >"$work/storage.conf"
printf 'unqualified-search-registries = ["docker.io"]\n' >"$work/registries.conf"
cat >"$work/containers.conf" <<'TOML'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
network_backend = "netavark"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
TOML

compose=("$bin/podman-compose" --podman-run-args=--pull=never --file docker-compose.yml)
cleanup() {
    status=$?
    [ $status = 0 ] || podman ps --all || true
    "${compose[@]}" down --volumes >/dev/null 2>&1 || true
    podman rm --all --force >/dev/null 2>&1 || true
    buildah rm --all >/dev/null 2>&1 || true
    umount "$work/graph/$driver" 2>/dev/null || true
    rm -rf "$work"
    exit $status
}
trap cleanup EXIT

step() { printf '\n== %s\n' "$*"; }

fail() { echo "FAILED: $*" >&2; exit 1; }

step "A stand-in for the base image"
base=$(sed -n 's/^FROM \(python:[^ ]*\) AS base$/\1/p' deploy/Dockerfile)
debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv bookworm "$work/base" >"$work/debootstrap.log" ||
    { tail -5 "$work/debootstrap.log"; fail debootstrap; }
ln -s /usr/bin/python3 "$work/base/usr/local/bin/python"
cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/ca-certificates.crt"
tar -C "$work/base" -c . | podman import --quiet - "docker.io/library/$base" >/dev/null
du -sh "$work/base" | sed 's/\t.*/ stand-in/'
rm -rf "$work/base" "$work/lower" "$work/upper" "$work/inner" "$work/merged"

for service in "${services[@]}"; do
    step "Build of $service"
    # Docker's format: OCI's knows no HEALTHCHECK.
    buildah bud --quiet --layers --pull-never --network host --format docker --file deploy/Dockerfile --target "$service" --tag "mmsc-$service" .
done
podman images --format '{{.Repository}} {{.Size}}' | grep localhost/mmsc-

step "Up: ${services[*]}"
"${compose[@]}" up --detach --no-deps "${services[@]}"
for service in "${services[@]}"; do
    declare -A ports=([transmitter]=50051 [channel]=50052 [receiver]=50053)
    container=mmsc_${service}_1
    address=127.0.0.1:${ports[$service]}
    for attempt in $(seq 60); do
        podman healthcheck run "$container" >/dev/null 2>&1 && break
        [ "$attempt" -lt 60 ] || { podman logs "$container"; fail "$service is not healthy"; }
        sleep 2
    done
    "$bin/python" -m shared.health "$address" || fail "$service is not published"
    [ "$(podman exec "$container" id -u)" = 10001 ] || fail "$service runs as another user"
    podman exec "$container" touch /opt/app/x 2>/dev/null && fail "$service can write to its image"
    metrics=127.0.0.1:$((ports[$service] - 50051 + 9101))
    podman exec "$container" python -c "import urllib.request as u; print(u.urlopen('http://$metrics/metrics').read().decode(), end='')" >"$work/page"
    grep -q "^mmsc_build_info.*service=\"$service\"" "$work/page" || fail "$service serves no metrics"
    ! command -v promtool >/dev/null || promtool check metrics <"$work/page"
    echo "$service: healthy at $address, user 10001, read-only, metrics"
done

if [ ${#services[@]} = 3 ]; then
    step "A picture through all three"
    picture=$("$bin/python" -c "import skimage.data, pathlib; print(pathlib.Path(skimage.data.__file__).parent / 'astronaut.png')")
    "$bin/mmsc" send "$picture" "a face" --percent 2 --no-figure --out "$work/out"
    [ -s "$work/out/reconstruction.png" ] || fail "no picture"
fi

step "Down"
for service in "${services[@]}"; do
    podman stop --time 15 "mmsc_${service}_1" >/dev/null
    code=$(podman inspect --format '{{.State.ExitCode}}' "mmsc_${service}_1")
    [ "$code" = 0 ] || fail "$service ended with code $code"
done
echo "All of ${services[*]} ended with code 0 at SIGTERM."
