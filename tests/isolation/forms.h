/* SPDX-License-Identifier: MIT */
/*
 * The ways a guest can touch an address, for isolation-test.
 *
 * FORM(name, kind, text). Before it runs RDI, RSI, RBX and RBP hold the address attacked, RCX is 1, RAX 0, and all
 * bits of the vector registers are set; in STACK forms RSP is the address + 64. INT3 follows each.
 *   R  touches it       W  and changes what is there       X  executes it       N  does not touch it
 */
#define FORMS_64(FORM)                                                                             \
	FORM(load8, R, "mov al, [rdi]")                                                            \
	FORM(load64, R, "mov rax, [rdi]")                                                          \
	FORM(load_r10, R, "mov r10, rdi; mov r11, [r10]; mov rax, r11")                            \
	FORM(load_index, R, "mov r11, 8; mov rax, [rdi + r11*8 - 64]")                             \
	FORM(load_negative, R, "mov rcx, -8; lea rdi, [rdi + 64]; mov rax, [rdi + rcx*8]")         \
	FORM(store8, W, "mov [rdi], cl")                                                           \
	FORM(store64, W, "mov [rdi], rcx")                                                         \
	FORM(store_imm, W, "mov qword ptr [rdi], 0x11223344")                                      \
	FORM(store_nt, W, "movnti [rdi], rcx")                                                     \
	FORM(group, W, "mov rax, [rdi]; mov ecx, 5; mov [rdi + 16], rcx; add [rdi + 24], rcx") \
	FORM(group_wide, W, "mov qword ptr [rdi + 512], 1; mov qword ptr [rdi], 2; mov rax, [rdi + 256]") \
	FORM(add, W, "add [rdi], rcx")                                                             \
	FORM(lock_add, W, "lock add [rdi], rcx")                                                   \
	FORM(xchg, W, "xchg [rdi], rcx")                                                           \
	FORM(cmpxchg, R, "lock cmpxchg [rdi], rcx")                                                \
	FORM(cmpxchg16b, R, "lock cmpxchg16b [rdi]")                                               \
	FORM(btc_far, W, "mov rcx, 0x100000; lea rdi, [rdi - 0x20000]; btc qword ptr [rdi], rcx")  \
	FORM(movups_load, R, "movups xmm0, [rdi]")                                                 \
	FORM(movups_store, W, "movups [rdi], xmm0")                                                \
	FORM(movaps_store, W, "movaps [rdi], xmm0")                                                \
	FORM(maskmovdqu, W, "maskmovdqu xmm0, xmm1")                                               \
	FORM(fld, R, "fld tbyte ptr [rdi]")                                                        \
	FORM(fstp, W, "fld1; fstp tbyte ptr [rdi]")                                                \
	FORM(fnstenv, W, "fnstenv [rdi]")                                                          \
	FORM(fnsave, W, "fnsave [rdi]")                                                            \
	FORM(fxsave, W, "fxsave64 [rdi]")                                                          \
	FORM(fxrstor, R, "fxrstor64 [rdi]")                                                        \
	FORM(movs_from, R, "mov rdi, rsp; movsb")                                                   \
	FORM(lods, R, "lodsq")                                                                     \
	FORM(rep_lods, R, "mov ecx, 3; rep lodsq")                                                 \
	FORM(stos, W, "stosq")                                                                     \
	FORM(rep_stos, W, "mov ecx, 40; rep stosb")                                                \
	FORM(rep_stos_down, W, "std; mov ecx, 40; rep stosb; cld")                                 \
	FORM(rep_movs, W, "mov ecx, 5; inc rsi; rep movsq")                                         \
	FORM(scas, R, "scasb")                                                                     \
	FORM(cmps, R, "cmpsb")                                                                     \
	FORM(xlat, R, "xlatb")                                                                     \
	FORM(push_mem, R, "push [rdi]; pop rax")                                                   \
	FORM(pop_mem, W, "push 1; pop [rdi]")                                                      \
	FORM(leave, R, "mov rdx, rsp; leave; mov rsp, rdx")                                        \
	FORM(sidt, W, "sidt [rdi]")                                                                \
	FORM(fs_based, W, "wrfsbase rdi; mov fs:[rcx - 1], rcx")                                   \
	FORM(gs_based, W, "wrgsbase rdi; mov gs:[rcx - 1], rcx")                                   \
	FORM(gs_load, R, "wrgsbase rdi; mov rax, gs:[rcx - 1]")                                    \
	FORM(gs_zero, R, "mov eax, 0; wrgsbase rax; mov rax, gs:[rdi]")                            \
	FORM(gs_wrap, R, "mov rax, 0x1000; sub rax, rdi; neg rax; wrgsbase rax; mov rax, gs:[0x1000]") \
	FORM(prefetch, N, "prefetcht0 [rdi]")                                                      \
	FORM(jmp, X, "jmp rdi")                                                                    \
	FORM(call, X, "call rdi")                                                                  \
	FORM(push_ret, X, "push rdi; ret")

/* RSP is the address (+ 64 in it). */
#define FORMS_STACK(FORM)                                                                          \
	FORM(push, W, "push rcx")                                                                  \
	FORM(push_imm, W, "push 0x12345678")                                                       \
	FORM(pop, R, "pop rax")                                                                    \
	FORM(pop_group, R, "pop rax; pop rcx; pop rdx; pop r11; pop r10")                          \
	FORM(push_group, W, "push rbp; push r15; push r14; push r10; push r11; sub rsp, 8; mov [rsp], rax") \
	FORM(call_rel, W, "call 1f; 1: nop")                                                       \
	FORM(pushf, W, "pushfq")                                                                   \
	FORM(enter, W, "enter 16, 1")                                                              \
	FORM(red_zone, W, "mov [rsp - 64], rax")

#define FORMS_AVX(FORM)                                                                            \
	FORM(vmovups_store, W, "vmovups [rdi], ymm0")                                              \
	FORM(vmaskmov_load, R, "vmaskmovps ymm1, ymm0, [rdi]")                                     \
	FORM(vmaskmov_store, W, "vmaskmovps [rdi], ymm0, ymm1")                                    \
	FORM(gather, R, "vxorps ymm2, ymm2, ymm2; vpgatherdd ymm1, [rdi + ymm2*4], ymm0")          \
	FORM(gather_far, R, "vmovd xmm2, ecx; vpbroadcastd ymm2, xmm2; vpgatherdd ymm1, [rdi + ymm2*8 - 8], ymm0") \
	FORM(xsave, W, "mov eax, 7; xor edx, edx; xsave64 [rdi]")                                  \
	FORM(xrstor, R, "mov eax, 7; xor edx, edx; xrstor64 [rdi]")

#define FORMS_AVX512(FORM)                                                                         \
	FORM(zmm_load, R, "vmovdqu64 zmm1, [rdi]")                                                 \
	FORM(zmm_store, W, "vmovdqu64 [rdi], zmm0")                                                \
	FORM(masked, W, "mov eax, 0x5555; kmovd k1, eax; vmovdqu32 [rdi]{k1}, zmm0")               \
	FORM(compress, W, "mov eax, 0x00f0; kmovd k1, eax; vpcompressd [rdi]{k1}, zmm0")           \
	FORM(scatter, W, "kxnord k1, k1, k1; vpxord zmm2, zmm2, zmm2; vpscatterdd [rdi + zmm2]{k1}, zmm0")

/* 32-bit code: EDI, ESI, EBX, EBP, EDX are the address */
#define FORMS_32(FORM)                                                                             \
	FORM(load32, R, "mov eax, [edi]")                                                          \
	FORM(store32, W, "mov [edi], ecx")                                                         \
	FORM(inc32, W, "inc dword ptr [edi]")                                                      \
	FORM(wrap32, W, "sub edi, 0x7ffffff0; mov [edi + 0x7ffffff0], ecx")                        \
	FORM(index32, R, "mov eax, 0x40000000; mov eax, [edi + eax*4]")                            \
	FORM(stos32, W, "stosd")                                                                   \
	FORM(rep_stos32, W, "mov ecx, 20; rep stosd")                                              \
	FORM(movups32, W, "movups [edi], xmm0")                                                    \
	FORM(fxsave32, W, "fxsave [edi]")                                                          \
	FORM(jmp32, X, "jmp edi")
