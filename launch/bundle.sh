#!/bin/bash
# Makes one relocatable folder of titan-serve, its scripts, Open MPI and every library they need, for hosts without packages or root.
#
#   launch/bundle.sh OUT [more binaries]        then copy OUT anywhere and run OUT/titan-up [--workers N] [flags]
#
#   TITAN_SERVE     the binary (build/release/bin/titan-serve); for GPUs build/cuda/bin/titan-serve. NVIDIA's libcublasLt.so.13 is no part of a bundle:
#                   name it to titan-up in TITAN_CUBLASLT where the host's loader does not find it (without it prompts are slower)
#
# From what is installed here (Debian 12's layout). Needs glibc at least as new as this host's on the target. patchelf is used where it is there;
# otherwise libraries are found through LD_LIBRARY_PATH, which titan-up sets.
set -euo pipefail

[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$1
shift
serve=${TITAN_SERVE:-$here/../build/release/bin/titan-serve}
[ -x "$serve" ] || { echo "bundle.sh: no $serve: build it (cmake --preset release && cmake --build --preset release --target titan-serve), or name another in TITAN_SERVE" >&2; exit 1; }
plugins=$(find /usr/lib -type d -name openmpi3 -print -quit)
pmix=$(find /usr/lib -type d -path '*/lib/pmix' -print -quit)
[ -n "$plugins" ] || { echo "bundle.sh: Open MPI's plugins are not below /usr/lib" >&2; exit 1; }

mkdir -p "$out"/{bin,lib/openmpi,lib/pmix,share,etc,launch,hwloc}
cp -L "$serve" "$@" "$out/bin/"
cp -L "$(readlink -f "$(command -v mpirun)")" "$out/bin/mpirun"
cp -L "$(readlink -f "$(command -v orted)")" "$out/bin/orted"
cp "$here/up.sh" "$here/preflight.sh" "$here/titan.sbatch" "$out/launch/"
cp -rL /usr/share/openmpi "$out/share/"
share=${pmix:+${pmix%/lib/pmix}/share/pmix}
[ ! -d "$share" ] || cp -rL "$share" "$out/share/"
for f in "$plugins"/*.so; do  # fabrics, files and other schedulers stay behind
  case ${f##*/} in
    *ucx* | *ofi* | *openib* | *psm* | mca_atomic* | mca_memheap* | mca_scoll* | mca_spml* | mca_sshmem* | mca_io_* | mca_fs_* | mca_fbtl* | mca_fcoll* | mca_sharedfp* | *monitoring*) continue ;;
  esac
  cp -L "$f" "$out/lib/openmpi/"
done
[ -z "$pmix" ] || cp -L "$pmix"/*.so "$out/lib/pmix/"
# every library that any of these needs, but for glibc's own
for f in "$out"/bin/* "$out"/lib/openmpi/*.so "$out"/lib/pmix/*.so; do ldd "$f" 2>/dev/null | awk '$3 ~ /^\// {print $3}'; done | sort -u |
  grep -vE '/(ld-linux|libc|libm|libpthread|libdl|librt|libresolv|libutil|libgcc_s)[.-]' | while read -r f; do cp -Ln "$f" "$out/lib/" 2>/dev/null || true; done
if command -v patchelf >/dev/null; then
  for f in "$out"/bin/* "$out"/lib/*.so*; do patchelf --set-rpath "\$ORIGIN/../lib:\$ORIGIN" "$f" 2>/dev/null || true; done
  for f in "$out"/lib/openmpi/*.so "$out"/lib/pmix/*.so; do patchelf --set-rpath "\$ORIGIN/.." "$f" 2>/dev/null || true; done
fi
printf 'pml = ob1\nbtl = self,vader,tcp\n' >"$out/etc/openmpi-mca-params.conf"
cat >"$out/titan-up" <<'R'
#!/bin/bash
# up.sh of this bundle, wherever it lies: its own Open MPI, PMIx and libraries.
b=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$b/bin:$PATH LD_LIBRARY_PATH=$b/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} TITAN_SERVE=$b/bin/titan-serve
export OPAL_PREFIX=$b OPAL_LIBDIR=$b/lib OPAL_PKGLIBDIR=$b/lib/openmpi OPAL_DATADIR=$b/share OPAL_PKGDATADIR=$b/share/openmpi OPAL_SYSCONFDIR=$b/etc
export OMPI_MCA_mca_base_component_path=$b/lib/openmpi OMPI_MCA_mca_base_param_files=$b/etc/openmpi-mca-params.conf
export PMIX_PREFIX=$b PMIX_LIBDIR=$b/lib PMIX_PKGLIBDIR=$b/lib/pmix PMIX_DATADIR=$b/share PMIX_PKGDATADIR=$b/share/pmix PMIX_SYSCONFDIR=$b/etc
export PMIX_MCA_mca_base_component_path=$b/lib/pmix HWLOC_PLUGINS_PATH=$b/hwloc
exec "$b/launch/up.sh" "$@"
R
chmod +x "$out/titan-up"
echo "bundle.sh: $(du -sh "$out" | cut -f1) in $out; start it with $out/titan-up --model PATH"
