"""An ordinary program that carries out scripts of system calls and tells what each answered; it does not know where."""
