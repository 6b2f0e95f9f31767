# SPDX-License-Identifier: MIT
# bash completion for lodge(1)

_lodge()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}

	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		COMPREPLY=($(compgen -W "run engines help version --help --version" -- "$cur"))
		return
	fi
	case ${COMP_WORDS[1]} in
	help)
		COMPREPLY=($(compgen -W "run engines help version" -- "$cur"))
		return
		;;
	engines)
		COMPREPLY=($(compgen -W "--json --help" -- "$cur"))
		return
		;;
	run) ;;
	*) return ;;
	esac
	case $prev in
	-k | --kernel | -i | --initrd | -d | --disk | --profile)
		compopt -o filenames 2>/dev/null
		COMPREPLY=($(compgen -f -- "$cur"))
		return
		;;
	-e | --engine)
		COMPREPLY=($(compgen -W "auto bt kvm" -- "$cur"))
		return
		;;
	--cpu)
		COMPREPLY=($(compgen -W "host x86-64-v1 x86-64-v2 x86-64-v3 x86-64-v4" -- "$cur"))
		return
		;;
	-N | --net)
		COMPREPLY=($(compgen -W "user user,hostfwd=tcp: none" -- "$cur"))
		return
		;;
	--console)
		COMPREPLY=($(compgen -W "stdio none file= pty unix=" -- "$cur"))
		return
		;;
	--device)
		COMPREPLY=($(compgen -W "isa-debug-exit pc-testdev pci-testdev virtio-console" -- "$cur"))
		return
		;;
	--trace)
		local before=
		[[ $cur == *,* ]] && before=${cur%,*},
		COMPREPLY=($(compgen -P "$before" -W "irq exceptions mmio pio tb tlb msr cpu virtio block net \
			unclaimed all" -- "${cur##*,}"))
		compopt -o nospace 2>/dev/null
		return
		;;
	-n | --name | -c | --cpus | -m | --memory | -a | --append | --gdb)
		return
		;;
	esac
	COMPREPLY=($(compgen -W "--name --engine --cpus --memory --cpu --kernel --initrd --append --disk --net --console
		--device --no-reboot --gdb --trace --stats --summary --profile --perf-map --verbose --help" -- "$cur"))
} && complete -F _lodge lodge
