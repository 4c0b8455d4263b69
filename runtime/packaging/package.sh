#!/usr/bin/env bash
# Builds `swr` for Raspberry Pi OS on a Debian PC, and packs it: a .deb, and a .tar.gz that runs where it is unpacked. No Raspberry Pi is needed.
set -euo pipefail
shopt -s inherit_errexit

usage() {
  cat <<'END'
Usage: runtime/packaging/package.sh [--arch arm64|armhf|all] [--no-live] [--glibc VERSION] [--jobs N]

  --arch ARCH      arm64: 64-bit Raspberry Pi OS; armhf: 32-bit, ARMv7 or newer; all: both [default: all]
  --no-live        without the microphone: needs no libasound, reads files and standard input, has no service
  --glibc VERSION  refuse a program that needs a newer C library [default: 2.36, that of bookworm]
  --jobs N         compile so many crates at a time [default: cargo's]

As root it installs what is missing (apt, rustup); otherwise it says what is missing and ends.
CARGO_TARGET_DIR is where cargo builds [default: target]; packages go to target/packages. SOURCE_DATE_EPOCH is the time of all
files in them [default: that of the last commit]. Equal sources, tools and SOURCE_DATE_EPOCH give equal packages.
END
}

fail() {
  echo "package.sh: $*" >&2
  exit 1
}

arch=all live=yes glibc=2.36 jobs=()
while [ $# -gt 0 ]; do
  case $1 in
    --no-live) live=no ;;
    --help | -h) usage && exit ;;
    --arch | --glibc | --jobs)
      [ $# -gt 1 ] || fail "$1: a value is missing; see --help"
      case $1 in
        --arch) arch=$2 ;;
        --glibc) glibc=$2 ;;
        --jobs) jobs=(--jobs "$2") ;;
      esac
      shift
      ;;
    *) fail "$1: no such option; see --help" ;;
  esac
  shift
done
case $arch in
  all) arches=(arm64 armhf) ;;
  arm64 | armhf) arches=("$arch") ;;
  *) fail "--arch $arch: expected arm64, armhf or all" ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
# Names, order and numbers are the same for every user.
export LC_ALL=C TZ=UTC
umask 022
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
packages=$root/target/packages
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) || fail "no commit to take the time from; set SOURCE_DATE_EPOCH"
fi
export SOURCE_DATE_EPOCH

# What an architecture is called elsewhere.
triple() { [ "$1" = arm64 ] && echo aarch64-unknown-linux-gnu || echo armv7-unknown-linux-gnueabihf; }
gnu() { [ "$1" = arm64 ] && echo aarch64-linux-gnu || echo arm-linux-gnueabihf; }

# What building needs.
command -v cargo >/dev/null || fail "cargo is missing; install Rust, https://rustup.rs"
command -v apt-get >/dev/null || fail "apt-get is missing; this script is for Debian"
needed=(gcc libc6-dev binutils xz-utils)
[ $live = no ] || needed+=(pkg-config)
foreign=() targets=()
for arch in "${arches[@]}"; do
  needed+=("gcc-$(gnu "$arch")" "libc6-dev-$arch-cross")
  if [ $live = yes ]; then
    needed+=("libasound2-dev:$arch")
    [ "$(dpkg --print-architecture)" = "$arch" ] || dpkg --print-foreign-architectures | grep -x "$arch" >/dev/null || foreign+=("$arch")
  fi
  [ -d "$(rustc --print target-libdir --target "$(triple "$arch")")" ] || targets+=("$(triple "$arch")")
done
missing=()
for package in "${needed[@]}"; do
  dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -x installed >/dev/null || missing+=("$package")
done
install=()
for arch in "${foreign[@]}"; do install+=("dpkg --add-architecture $arch"); done
[ ${#missing[@]} -eq 0 ] || install+=("apt-get update" "apt-get install -y --no-install-recommends ${missing[*]}")
if [ ${#install[@]} -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "package.sh: missing; as root:" >&2
    printf '  %s\n' "${install[@]}" >&2
    exit 1
  fi
  for command in "${install[@]}"; do
    echo "== $command"
    # An index that cannot be had now does not matter if the packages can.
    DEBIAN_FRONTEND=noninteractive $command || [ "$command" = "apt-get update" ] || fail "failed: $command"
  done
fi
if [ ${#targets[@]} -gt 0 ]; then
  command -v rustup >/dev/null || fail "Rust's library for ${targets[*]} is missing, and rustup to install it"
  rustup target add "${targets[@]}"
fi

# Without `eval`: a device measures nothing on recordings.
features=(--no-default-features --features cli,tract,live) suffix=
[ $live = yes ] || features=(--no-default-features --features cli,tract) suffix=-nolive
version=$(cargo pkgid --locked -p swr-runtime) && version=${version##*[@#]}

# Builds for an architecture. The program holds no path of this machine, so that another one builds the same. Its build must not see the time
# of the files either: tract would be compiled anew for each.
build() {
  local triple upper gnu sysroot flags
  triple=$(triple "$1") gnu=$(gnu "$1")
  upper=${triple^^}
  flags="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$root=/swr"
  sysroot=$(rustc --print sysroot)/lib/rustlib/src/rust
  [ ! -d "$sysroot" ] || flags+=" --remap-path-prefix=$sysroot=/rustc/$(rustc -vV | sed -n 's/^commit-hash: //p')"
  env -u SOURCE_DATE_EPOCH "CARGO_TARGET_${upper//-/_}_LINKER=$gnu-gcc" "CARGO_TARGET_${upper//-/_}_RUSTFLAGS=$flags" \
    PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_LIBDIR="/usr/lib/$gnu/pkgconfig:/usr/share/pkgconfig" \
    cargo build --locked --release "${jobs[@]}" -p swr-runtime --bin swr --target "$triple" "${features[@]}"
}

# The Depends of a program, from what it links; refuses what its package would not have.
dependencies() {
  local arch=$1 program=$2 dynamic needs newest machine library asound=no
  machine=$(readelf -hW "$program" | sed -n 's/^ *Machine: *//p')
  case $arch:$machine in
    arm64:AArch64 | armhf:ARM) ;;
    *) fail "$program: is for $machine, expected one for $arch" ;;
  esac
  dynamic=$(readelf -dW "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
  newest=$(readelf -VW "$program" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -uV | tail -1)
  [ "$(printf '%s\n' "$newest" "$glibc" | sort -V | tail -1)" = "$glibc" ] ||
    fail "$program: needs glibc $newest, newer than $glibc; build on an older Debian, or give --glibc $newest for newer systems only"
  needs="libc6 (>= $newest)"
  for library in $dynamic; do
    case $library in
      libc.so.6 | libm.so.6 | libdl.so.2 | libpthread.so.0 | librt.so.1 | ld-linux-aarch64.so.1 | ld-linux-armhf.so.3) ;;
      libgcc_s.so.1) needs+=", libgcc-s1" ;;
      libasound.so.2) asound=yes ;;
      *) fail "$program: links $library, of which this script does not know the package" ;;
    esac
  done
  [ $asound = $live ] || fail "$program: links libasound: $asound, expected: $live"
  if [ $live = yes ]; then
    # On armhf, libasound2t64 has 64-bit times, and the program has not.
    needs+=", libasound2"
    [ "$arch" = armhf ] || needs+=" | libasound2t64"
  fi
  echo "$needs"
}

# The licences of the crates in the program, each text once.
third_party() {
  local name number text hash seen=" "
  cargo tree --locked -p swr-runtime -e normal,no-proc-macro --target "$(triple "$1")" "${features[@]}" \
    --prefix none --format '{p}|{l}' | sed 's/ (\*)$//; s/ (proc-macro)//' | grep -v '(/' | sort -u >"$2.list"
  {
    echo "Crates in this program, and their licences. Their texts follow, each once."
    echo
    sed 's/|/: /' "$2.list"
    while read -r name number; do
      for text in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$name-${number#v}"/{LICEN[CS]E,COPYING,NOTICE,license,copying,notice}*; do
        [ -f "$text" ] || continue
        hash=$(sha256sum <"$text")
        [[ $seen != *" $hash"* ]] || continue
        seen+="$hash "
        printf '\n==== %s %s: %s\n\n' "$name" "${number#v}" "${text##*/}"
        cat "$text"
      done
    done < <(sed 's/|.*//' "$2.list")
  } | gzip -9n >"$2"
  rm "$2.list"
}

# The models of every size with their cards, and the sample audio that `swr demo` listens to.
copy_models() {
  local base size deltas
  for base in models/*/base.json; do
    size=$(basename "$(dirname "$base")")
    install -d "$1/$size"
    install -m 644 "models/$size"/{base.onnx,base.json,*.golden,*.md,hearing.svg} "$1/$size"
    # A size may have its base alone.
    mapfile -t deltas < <(find "models/$size" -name '*.swr')
    if [ ${#deltas[@]} -gt 0 ]; then
      install -m 644 "${deltas[@]}" "$1/$size"
    fi
  done
  install -d "$1/demo"
  install -m 644 models/README.md "$1"
  install -m 644 models/demo/*.json models/demo/*.flac "$1/demo"
}

# Time and mode of all files.
settle() {
  find "$1" -type d -exec chmod 755 {} +
  find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

pack_tar() {
  local program=$2 third=$3 name=swr-$version-$1$suffix
  local tree=$work/$name
  install -D -m 755 "$program" "$tree/swr"
  copy_models "$tree/models"
  install -m 644 LICENSE-APACHE LICENSE-MIT "$here/INSTALL.md" "$tree"
  install -m 644 "$third" "$tree/third-party-licences.gz"
  [ $live = no ] || install -m 644 "$here/swr.service" "$here/listen.toml" "$tree"
  settle "$tree"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --format=gnu -C "$work" -cf - "$name" |
    gzip -9n >"$packages/$name.tar.gz"
  made+=("$packages/$name.tar.gz")
}

pack_deb() {
  local arch=$1 program=$2 third=$3 needs=$4 package=swr$suffix
  local tree=$work/deb-$arch doc
  doc=$tree/usr/share/doc/$package
  # `swr` looks for models beside itself: both have a folder of their own, and links where they are expected.
  install -D -m 755 "$program" "$tree/usr/lib/swr/swr"
  ln -s ../../share/swr/models "$tree/usr/lib/swr/models"
  install -d "$tree/usr/bin" "$doc" "$tree/DEBIAN"
  ln -s ../lib/swr/swr "$tree/usr/bin/swr"
  copy_models "$tree/usr/share/swr/models"
  install -m 644 LICENSE-APACHE LICENSE-MIT "$here/INSTALL.md" "$doc"
  install -m 644 "$third" "$doc/third-party-licences.gz"
  cat >"$doc/copyright" <<'END'
swr is licensed under the MIT licence (LICENSE-MIT) or the Apache licence 2.0 (LICENSE-APACHE), as you like.
The crates that it contains and their licences are in third-party-licences.gz. Where the models' training data comes from, and under
which licences, stands in their cards, /usr/share/swr/models/*/*.md.
END
  if [ $live = yes ]; then
    install -D -m 644 "$here/swr.service" "$tree/usr/lib/systemd/system/swr.service"
    install -D -m 644 "$here/listen.toml" "$tree/etc/swr/listen.toml"
    echo /etc/swr/listen.toml >"$tree/DEBIAN/conffiles"
    maintainer_scripts "$tree/DEBIAN"
  fi
  [ "$arch" != armhf ] || refuse_armv6 "$tree/DEBIAN/preinst"
  local size
  size=$(find "$tree" -path "$tree/DEBIAN" -prune -o -type f -printf '%s\n' | awk '{ sum += int(($1 + 1023) / 1024) } END { print sum }')
  {
    echo "Package: $package"
    echo "Version: $version"
    echo "Architecture: $arch"
    echo "Maintainer: swr <swr@localhost>"
    echo "Installed-Size: $size"
    echo "Section: sound"
    echo "Priority: optional"
    if [ $live = yes ]; then
      echo "Depends: $needs, adduser"
      echo "Recommends: alsa-utils"
      # Spoken to over its socket, without a library; ALSA is used where there is none.
      echo "Suggests: pipewire-pulse | pulseaudio"
      echo "Conflicts: swr-nolive"
      echo "Replaces: swr-nolive"
    else
      echo "Depends: $needs"
      echo "Recommends: alsa-utils"
      echo "Conflicts: swr"
      echo "Replaces: swr"
    fi
    echo "Description: keyword spotting in many languages, on the device"
    echo " swr listens for spoken commands without a cloud: a small base network and a"
    echo " delta of a few kilobytes per language. Base and languages are in the package."
    if [ $live = yes ]; then
      echo " The service swr.service is installed but not enabled."
    else
      echo " This build reads audio from files and standard input, not from a microphone."
    fi
  } >"$tree/DEBIAN/control"
  (cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | sort | xargs -d '\n' md5sum) >"$tree/DEBIAN/md5sums"
  chmod 644 "$tree"/DEBIAN/{control,md5sums}
  settle "$tree"
  local deb=$packages/${package}_${version}_$arch.deb
  dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$tree" "$deb" >/dev/null
  made+=("$deb")
}

maintainer_scripts() {
  cat >"$1/postinst" <<'END'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
  if ! getent passwd swr >/dev/null; then
    adduser --quiet --system --group --no-create-home --home /var/lib/swr --gecos "keyword spotting" swr
  fi
  adduser --quiet swr audio
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # An update of a service that runs; nothing is enabled or started here.
    [ -z "$2" ] || deb-systemd-invoke try-restart swr.service || true
  fi
fi
END
  cat >"$1/prerm" <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ]; then
  [ ! -d /run/systemd/system ] || deb-systemd-invoke stop swr.service || true
  ! command -v systemctl >/dev/null || systemctl --quiet --no-reload disable swr.service || true
fi
END
  # The user stays: files of it may be elsewhere.
  cat >"$1/postrm" <<'END'
#!/bin/sh
set -e
[ "$1" != purge ] || rm -rf /var/lib/swr
[ ! -d /run/systemd/system ] || systemctl daemon-reload || true
END
  chmod 755 "$1"/{postinst,prerm,postrm}
}

# Raspberry Pi OS calls ARMv6 armhf as well.
refuse_armv6() {
  cat >"$1" <<'END'
#!/bin/sh
set -e
if [ "$(uname -m)" = armv6l ]; then
  echo "swr: this is an ARMv6 processor (Raspberry Pi 1, Zero or Zero W), and the program needs ARMv7" >&2
  exit 1
fi
END
  chmod 755 "$1"
}

mkdir -p "$packages"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
made=()
for arch in "${arches[@]}"; do
  echo "== $arch, with ${features[2]}"
  build "$arch"
  program=$work/swr-$arch third=$work/third-$arch
  # Kept as it was checked, whatever is built meanwhile.
  cp "$CARGO_TARGET_DIR/$(triple "$arch")/release/swr" "$program"
  needs=$(dependencies "$arch" "$program")
  third_party "$arch" "$third"
  pack_tar "$arch" "$program" "$third"
  pack_deb "$arch" "$program" "$third" "$needs"
  echo "   program $(stat -c %s "$program") bytes; Depends: $needs"
done
for file in "${made[@]}"; do
  echo "$(stat -c %s "$file") bytes  sha256 $(sha256sum "$file" | cut -d' ' -f1)  ${file#"$root"/}"
done
