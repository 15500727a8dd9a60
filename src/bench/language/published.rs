//! Texts of the page's section beside the figures that Adams and Agesen published.

super::texts! {
    /// Heading of the section.
    HEADING {
        en "Beside Adams and Agesen (2006)"
        de "Neben Adams und Agesen (2006)"
        zh "与 Adams 和 Agesen（2006）对照"
    }
    ABOUT {
        en "Keith Adams and Ole Agesen compared two monitors on a Pentium 4 of 3.8 GHz, one that translates the guest's kernel and one that uses the CPU's first hardware assistance: {source}. Beside their cycles stand those of this run."
        de "Keith Adams und Ole Agesen verglichen auf einem Pentium 4 mit 3,8 GHz zwei Monitore: einen, der den Kern des Gastes übersetzt, und einen, der die erste Hardwareunterstützung des Prozessors benutzt: {source}. Neben ihren Takten stehen die dieses Laufs."
        zh "Keith Adams 和 Ole Agesen 在 3.8 GHz 的 Pentium 4 上比较了两种监控程序：一种翻译客户机内核，另一种使用 CPU 最早的硬件辅助：{source}。下表把本次运行的周期数与他们的并列。"
    }
    TABLE {
        en "Cycles of one operation: published, and measured in this run with the ratio to native where there is one"
        de "Takte einer Operation: veröffentlicht, und in diesem Lauf gemessen, mit dem Verhältnis zu nativ, wo es das gibt"
        zh "单次操作的周期数：已发表的，以及本次运行测得的（若有原生数据则附与原生之比）"
    }
    COLUMN_OPERATION { en "operation" de "Operation" zh "操作" }
    COLUMN_NATIVE { en "2006: native" de "2006: nativ" zh "2006：原生" }
    COLUMN_SOFTWARE { en "2006: software VMM" de "2006: Software-VMM" zh "2006：软件 VMM" }
    COLUMN_HARDWARE { en "2006: hardware VMM" de "2006: Hardware-VMM" zh "2006：硬件 VMM" }
    COLUMN_HERE { en "here: {mode}" de "hier: {mode}" zh "本机：{mode}" }
    LIKE_NATIVE { en "as native" de "wie nativ" zh "与原生相同" }
    MORE_THAN_NATIVE { en "about {cycles} more than native" de "etwa {cycles} mehr als nativ" zh "比原生约多 {cycles}" }
    NOTE_NUMBERS {
        en "Only figures that the text of the paper states are carried over; ≈ marks those that follow from a ratio which it states. Its native figure for syscall stands only in its plot and is left out."
        de "Übernommen sind nur Zahlen, die der Text der Arbeit nennt; ≈ steht vor denen, die aus einem genannten Verhältnis folgen. Ihre native Zahl für syscall steht nur in einem Diagramm und fehlt hier."
        zh "只采用论文正文给出的数字；≈ 表示由文中给出的比例推算而得。syscall 的原生数字只见于论文的图中，故略去。"
    }
    NOTE_TICKS {
        en "A cycle here is a tick of the TSC, which ran at {mhz} MHz whatever the clock of the core was. Twenty years of CPUs lie between the two halves of the table: compare the order within a row, not cycles across."
        de "Ein Takt ist hier ein Schritt des TSC, der mit {mhz} MHz lief, gleich wie schnell der Prozessorkern getaktet war. Zwischen den beiden Hälften der Tabelle liegen zwanzig Jahre: zu vergleichen ist die Reihenfolge in einer Zeile, nicht die Takte der einen Hälfte mit denen der anderen."
        zh "此处一个周期是 TSC 的一个节拍，TSC 频率为 {mhz} MHz，与核心的实际频率无关。表格左右两半相隔二十年的 CPU 发展：应比较同一行内的先后次序，而不是跨半边比较周期数。"
    }
    NOTE_NO_TSC {
        en "This file does not say how fast the TSC ran, so the figures of this run are times, not cycles. Compare the order within a row."
        de "Diese Datei sagt nicht, wie schnell der TSC lief; die Zahlen dieses Laufs sind darum Zeiten und keine Takte. Zu vergleichen ist die Reihenfolge in einer Zeile."
        zh "此文件没有记录 TSC 的频率，因此本次运行的数字是时间而不是周期数。请比较同一行内的先后次序。"
    }
    NOTE_EMU {
        en "emu is no copy of their software VMM: that translated kernel code only, ran user code directly, adapted its translations to what it saw, and lived at the privilege of a kernel. emu translates all code and is an ordinary process."
        de "emu ist keine Nachbildung ihres Software-VMM: der übersetzte nur Kerncode, ließ Benutzercode unmittelbar laufen, passte seine Übersetzungen dem an, was er sah, und lief mit den Rechten eines Kerns. emu übersetzt allen Code und ist ein gewöhnlicher Prozess."
        zh "emu 并不是他们的软件 VMM 的翻版：后者只翻译内核代码，用户代码直接执行，会根据观察到的情况调整译码，并以内核特权运行。emu 翻译全部代码，而且只是一个普通进程。"
    }
    NOTE_PV {
        en "pv has no counterpart there: the patched guest runs natively in sandboxed processes, so that what it cannot do by itself costs a message through the host's kernel."
        de "pv hat dort kein Gegenstück: der gepatchte Gast läuft nativ in abgeschotteten Prozessen; was er nicht selbst kann, kostet darum eine Nachricht durch den Kern des Wirts."
        zh "pv 在论文中没有对应物：打过补丁的客户机在沙箱进程中原生运行，它自己做不到的事要经宿主机内核传一次消息。"
    }
    NOTE_KVM_HARDWARE {
        en "kvm is the counterpart of their hardware VMM, on a later CPU: where it has nested paging, which theirs had not, page faults and changes of page tables need no exit. What this program has to answer, such as ports, comes further than theirs, which answered in its monitor."
        de "kvm ist das Gegenstück ihres Hardware-VMM, auf einem späteren Prozessor: wo dieser geschachtelte Seitentabellen hat, die ihrer nicht hatte, brauchen Seitenfehler und Änderungen von Seitentabellen keinen Exit. Was dieses Programm beantworten muss, etwa Ports, hat einen weiteren Weg als bei ihnen, wo der Monitor selbst antwortete."
        zh "kvm 对应他们的硬件 VMM，只是 CPU 更新：若它有嵌套页表（他们的 CPU 没有），缺页和修改页表便不必退出。需要本程序应答的操作（如端口）路径比他们的更长，他们的监控程序自己就应答了。"
    }
    NOTE_KVM_NESTED {
        en "kvm is the counterpart of their hardware VMM with one more hypervisor below: what exits costs several times more than on bare hardware, and what does not exit costs the same."
        de "kvm ist das Gegenstück ihres Hardware-VMM mit einem weiteren Hypervisor darunter: was einen Exit braucht, kostet ein Vielfaches dessen auf echter Hardware; was keinen braucht, kostet gleich viel."
        zh "kvm 对应他们的硬件 VMM，但下面还有一层虚拟机监控程序：需要退出的操作比裸机贵数倍，不需要退出的则一样。"
    }
    NOTE_KVM_EMULATED {
        en "kvm is not the counterpart of their hardware VMM on this host: its KVM emulates the guest's kernel instruction by instruction, so all of these operations but the call in ring 3 show that."
        de "kvm ist auf diesem Wirt nicht das Gegenstück ihres Hardware-VMM: sein KVM emuliert den Kern des Gastes Befehl für Befehl, und außer dem Aufruf in Ring 3 zeigen alle diese Operationen das."
        zh "在本宿主机上 kvm 并不对应他们的硬件 VMM：这里的 KVM 逐条指令模拟客户机内核，除 ring 3 中的调用外，这些操作反映的都是这一点。"
    }
    NOTE_KVM_UNKNOWN {
        en "What this KVM is was not determined, so kvm may not be the counterpart of their hardware VMM."
        de "Was dieses KVM ist, wurde nicht bestimmt; kvm muss also nicht das Gegenstück ihres Hardware-VMM sein."
        zh "未能确定这个 KVM 的类型，因此 kvm 不一定对应他们的硬件 VMM。"
    }
    ORDER {
        en "There, cheapest first: {there}. Here: {here}. {why}"
        de "Dort, das Billigste zuerst: {there}. Hier: {here}. {why}"
        zh "论文中由低到高：{there}。本机：{here}。{why}"
    }
    NATIVE { en "native" de "nativ" zh "原生" }
    SOFTWARE { en "software" de "Software" zh "软件" }
    HARDWARE { en "hardware" de "Hardware" zh "硬件" }

    /// Why the figures of an operation differ.
    WHY_SYSCALL {
        en "Their software VMM stood at each way into the kernel and back; hardware assistance leaves SYSCALL to the guest. emu changes the privilege within translated code; pv changes from one process to another."
        de "Ihr Software-VMM stand an jedem Weg in den Kern und zurück; Hardwareunterstützung überlässt SYSCALL dem Gast. emu wechselt die Privilegstufe innerhalb übersetzten Codes, pv wechselt von einem Prozess in einen anderen."
        zh "他们的软件 VMM 要经手每次进出内核；硬件辅助则把 SYSCALL 留给客户机自己。emu 在翻译后的代码内部切换特权级；pv 要从一个进程切换到另一个进程。"
    }
    WHY_IN {
        en "Natively the chipset answers, which takes longer than a device model in software. emu calls the model like a function; pv and kvm have to leave the guest for it. Their port was 0x80, ours is a register of the UART."
        de "Nativ antwortet der Chipsatz, was länger dauert als ein Gerätemodell in Software. emu ruft das Modell wie eine Funktion; pv und kvm müssen dafür den Gast verlassen. Ihr Port war 0x80, unserer ist ein Register des UART."
        zh "原生执行时由芯片组应答，比软件设备模型更慢。emu 像调用函数一样调用设备模型；pv 和 kvm 必须为此离开客户机。他们用端口 0x80，我们用 UART 的一个寄存器。"
    }
    WHY_CR8 {
        en "No interrupt waits, so nothing follows from the write and software may just note it. Hardware assistance can do the same with a shadow of the register; where that is missing, or the interrupt chips are in this program, the write may be an exit."
        de "Keine Unterbrechung wartet; aus dem Schreiben folgt also nichts, und Software darf es sich einfach merken. Hardwareunterstützung kann dasselbe mit einem Schattenregister; wo das fehlt oder die Unterbrechungschips in diesem Programm liegen, kann das Schreiben ein Exit sein."
        zh "没有中断在等待，因此写入没有后果，软件只需记下。硬件辅助可用影子寄存器做到同样的事；若没有影子寄存器，或中断控制器位于本程序中，写入就可能引起退出。"
    }
    WHY_CALL {
        en "A return address is one of the guest's code: a translator has to find its own code for it. Directly executed code has no such cost."
        de "Eine Rücksprungadresse gehört zum Code des Gastes: ein Übersetzer muss dazu erst seinen eigenen Code finden. Unmittelbar ausgeführter Code hat diese Kosten nicht."
        zh "返回地址属于客户机代码：翻译器必须为它找到自己翻译后的代码。直接执行的代码没有这项开销。"
    }
    WHY_PAGE_FAULT {
        en "Both of their monitors kept shadow page tables and so saw each fault first. emu finds the fault when it walks the guest's tables; pv has it from the host's kernel as a signal; with nested paging the guest would take it by itself."
        de "Beide ihrer Monitore führten Schattenseitentabellen und sahen darum jeden Seitenfehler zuerst. emu findet ihn, wenn es die Tabellen des Gastes durchläuft; pv erhält ihn vom Kern des Wirts als Signal; mit geschachtelten Seitentabellen nähme ihn der Gast selbst."
        zh "他们的两种监控程序都维护影子页表，因此总是先看到缺页。emu 在遍历客户机页表时发现缺页；pv 从宿主机内核以信号形式得到；若有嵌套页表，客户机自己就能处理。"
    }
    WHY_DIVIDE {
        en "A fault without the MMU: hardware assistance lets the guest take it. emu enters the guest's handler itself; in pv the host's kernel has the fault first."
        de "Eine Ausnahme ohne MMU: Hardwareunterstützung überlässt sie dem Gast. emu betritt selbst die Behandlung des Gastes; in pv hat sie zuerst der Kern des Wirts."
        zh "与 MMU 无关的异常：硬件辅助让客户机自己处理。emu 自己进入客户机的处理程序；在 pv 中先由宿主机内核得到异常。"
    }
    WHY_PTE {
        en "Shadow tables make each store to a page table an event; their translator learned to notice it without a trap. Our loop does more than theirs: it also executes INVLPG and reads through the entry, because a change shows only then."
        de "Schattentabellen machen jedes Schreiben in eine Seitentabelle zu einem Ereignis; ihr Übersetzer lernte, es ohne Trap zu bemerken. Unsere Schleife tut mehr als ihre: sie führt auch INVLPG aus und liest durch den Eintrag, weil sich eine Änderung erst dann zeigt."
        zh "影子页表使每次写页表都成为一个事件；他们的翻译器学会了不经陷入就察觉它。我们的循环比他们的做得更多：还要执行 INVLPG 并通过该表项读取，因为只有这时修改才会显现。"
    }
}
